"""The Django part as WSGI, for servers of that kind. It does not answer the delivery paths."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")

application = get_wsgi_application()
