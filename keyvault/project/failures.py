"""Errors that no view answered: JSON for the API, a page for people."""

from __future__ import annotations

import sys

from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from keyvault.crypto.envelope import IntegrityError
from keyvault.errors import CODES, code_for_status, envelope, request_id_from


def is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/v1/") or request.path_info == "/v1"


def request_id_of(request: HttpRequest) -> str:
    """The id that the middleware gave this request; a new one where it did not come that far."""
    known: str | None = getattr(request, "request_id", None)
    return known or request_id_from(request.headers.get("X-Request-ID"))


def error_response(request: HttpRequest, code: str, message: str | None = None) -> HttpResponse:
    """The answer for one of ``keyvault.errors.CODES``: the envelope below ``/v1/``, a page elsewhere."""
    status, default_message = CODES[code]
    request_id = request_id_of(request)
    response: HttpResponse
    if is_api(request):
        response = JsonResponse(envelope(code, message, status, request_id), status=status)
    else:
        template = f"{status}.html" if status in (403, 404) else "plain_error.html"
        text = message or default_message
        context = {"message": text, "status": status, "code": code, "request_id": request_id}
        response = render(request, template, context, status=status)
    response["X-Request-ID"] = request_id
    return response


def for_status(request: HttpRequest, status: int) -> HttpResponse:
    return error_response(request, code_for_status(status))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        return error_response(request, "bad_host")
    if isinstance(exception, RequestDataTooBig):
        return error_response(request, "payload_too_large")
    return error_response(request, "validation_error")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Whoever refuses says which role would do; Django itself says nothing."""
    return error_response(request, "permission_denied", str(exception) or None)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return error_response(
        request, "permission_denied", "The form has expired. Reload the page and send it again."
    )


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(request, "not_found")


def too_many_requests(request: HttpRequest) -> HttpResponse:
    """allauth's own limits: passwords, codes, and asking who it is."""
    return error_response(request, "rate_limited", "Too many attempts. Wait a few minutes, then try again.")


def server_error(request: HttpRequest) -> HttpResponse:
    # Django calls this while it handles the exception.
    raised = sys.exc_info()[1]
    if isinstance(raised, OperationalError | InterfaceError):
        return error_response(request, "database_unavailable")
    if isinstance(raised, IntegrityError):
        return error_response(request, "integrity_error")
    return error_response(request, "internal_error")
