"""The one ASGI application of Keyturn, for granian, uvicorn and others."""

from __future__ import annotations

import os
from typing import cast

if _server := os.environ.get("KEYTURN_SERVER_PID"):
    # Below ``keyturn serve`` this runs in a worker process of the server, which may be killed.
    import signal

    from keyvault.project.guard import die_with_parent

    # Not SIGTERM: until its event loop runs, this process still has the server's own handlers, which
    # would swallow it. Nothing is lost: an answer leaves only after its record is durable.
    die_with_parent(int(_server), with_signal=signal.SIGKILL)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")

from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http.request import split_domain_port, validate_host

_wsgi = get_wsgi_application()

# Models are importable only after Django is set up.
from keyvault.delivery import asgi as delivery  # noqa: E402
from keyvault.project.front import Application, Front  # noqa: E402

_bridge = WSGIMiddleware(_wsgi, workers=settings.KEYTURN_WEB_THREADS)  # type: ignore[arg-type]


def _host_is_allowed(host: str) -> bool:
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


application = Front(
    delivery,
    cast(Application, _bridge),
    _host_is_allowed,
    on_shutdown=[lambda: _bridge.executor.shutdown(wait=True), delivery.shut_down],
)
