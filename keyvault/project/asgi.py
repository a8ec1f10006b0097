"""The one ASGI application of Keyturn, for granian, uvicorn and others."""

from __future__ import annotations

import os
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")

from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http.request import split_domain_port, validate_host

from keyvault.project.guard import leave_no_core

# Whoever starts this server: a core file would hold plaintext.
leave_no_core()
_wsgi = get_wsgi_application()

# Models are importable only after Django is set up.
from keyvault.delivery import asgi as delivery  # noqa: E402
from keyvault.project.front import Application, Front  # noqa: E402
from keyvault.project.holding import Reporter  # noqa: E402
from keyvault.project.proxies import Proxies  # noqa: E402

_bridge = WSGIMiddleware(
    _wsgi,  # type: ignore[arg-type]
    workers=settings.KEYTURN_WEB_THREADS,
    # No bound: a caller that reads slowly waits on the event loop, and its thread is free again.
    send_queue_size=0,
)


_reporters: list[Reporter] = []


def _begin_to_report() -> None:
    # Here and not above: a worker process is forked after this module was imported.
    _reporters.append(Reporter("web"))
    _reporters[-1].start()


def _end_reports() -> None:
    while _reporters:
        _reporters.pop().stop()


def _host_is_allowed(host: str) -> bool:
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


application = Front(
    delivery,
    cast(Application, _bridge),
    _host_is_allowed,
    proxies=Proxies(settings.KEYTURN_TRUSTED_PROXIES) if settings.KEYTURN_TRUSTED_PROXIES else None,
    body_seconds=settings.KEYTURN_BODY_TIMEOUT,
    on_startup=[delivery.start, _begin_to_report],
    on_stop=[delivery.stop],
    on_shutdown=[_end_reports, lambda: _bridge.executor.shutdown(wait=True), delivery.shut_down],
)
