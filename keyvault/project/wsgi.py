"""The Django part as WSGI, for servers of that kind. It does not answer the delivery paths."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from keyvault.project.guard import leave_no_core

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")

# Whoever starts this server: a core file would hold plaintext.
leave_no_core()
application = get_wsgi_application()
