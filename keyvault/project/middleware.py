"""What every request through Django gets: an id, one log line, no caching, and errors in one shape."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.middleware.common import CommonMiddleware

from keyvault.crypto.globs import is_canonical_path
from keyvault.errors import MAX_BODY_BYTES, request_id_from
from keyvault.project.failures import error_response, for_status, is_api

log = structlog.get_logger("keyturn.request")

Handler = Callable[[HttpRequest], HttpResponse]
Work = Callable[[], object]

_PERMISSIONS = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"


def request_context(get_response: Handler) -> Handler:
    """Give the request an id, bind it to the log, and finish every response that leaves Django."""

    def middleware(request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        request_id = request_id_from(request.headers.get("X-Request-ID"))
        request.request_id = request_id  # type: ignore[attr-defined]
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = _in_api_shape(request, get_response(request))
            response["X-Request-ID"] = request_id
            for work in getattr(request, "keyturn_afterwards", ()):
                response._resource_closers.append(_bound(work, request_id))  # type: ignore[attr-defined]
            if not request.path_info.startswith(settings.STATIC_URL):
                response["Cache-Control"] = "no-store"
                response.headers.setdefault("Permissions-Policy", _PERMISSIONS)
            log.info(
                "request",
                method=request.method,
                path=request.path_info,
                status=response.status_code,
                milliseconds=round((time.perf_counter() - started) * 1000, 1),
            )
        return response

    return middleware


def afterwards(request: HttpRequest, work: Work) -> None:
    """Do this when the answer is out, so that the time which it takes tells the caller nothing."""
    waiting: list[Work] = request.__dict__.setdefault("keyturn_afterwards", [])
    waiting.append(work)


def _bound(work: Work, request_id: str) -> Work:
    def run() -> None:
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                work()
            except Exception:
                # Django drops what is raised here.
                log.exception("afterwards")
                raise

    return run


def _in_api_shape(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Errors below DRF (a 405 of a plain view, for one) come without our envelope: give them one."""
    if response.status_code < 400 or not is_api(request):
        return response
    if response.headers.get("Content-Type", "").startswith("application/json"):
        return response
    shaped = for_status(request, response.status_code)
    for name in ("Allow", "Retry-After", "WWW-Authenticate"):
        if name in response.headers:
            shaped[name] = response.headers[name]
    return shaped


def api_gate(get_response: Handler) -> Handler:
    """Refuse ambiguous paths below ``/v1/`` and bodies that are too large, before anything reads them.

    Behind our ASGI front this has been checked already, on the raw path; other servers tell it in
    ``RAW_URI`` or ``REQUEST_URI``, and without these the decoded path is what there is.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if is_api(request):
            raw = request.META.get("RAW_URI") or request.META.get("REQUEST_URI") or request.path
            if not is_canonical_path(raw.partition("?")[0]):
                return error_response(request, "malformed_path")
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return error_response(request, "payload_too_large")
        return get_response(request)

    return middleware


class ConsoleCommonMiddleware(CommonMiddleware):
    """Django's, but a redirect to the path with a slash is for people only; an API caller gets 404."""

    def should_redirect_with_slash(self, request: HttpRequest) -> bool:
        return not is_api(request) and super().should_redirect_with_slash(request)
