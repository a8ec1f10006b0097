"""Every exception that leaves a view, as the error envelope of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.exceptions import ValidationError as ModelValidationError
from django.db import IntegrityError as DuplicateRow
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.http.request import UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response

from keyvault.api.authentication import CHALLENGE
from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.intake import SecretRefused
from keyvault.errors import code_for_status, envelope, request_id_from, status_of
from keyvault.exceptions import KeyturnError

log = structlog.get_logger("keyturn.api")

RETRY_SECONDS = 5
UNKNOWN_FIELD = "unknown_field"  # the code under which serializers report a field that they do not know
WHOLE = "non_field_errors"


@dataclass(frozen=True)
class Refusal:
    """An exception as the envelope needs it; ``message`` None means the one of the code."""

    code: str
    message: str | None = None
    fields: Mapping[str, list[str]] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def exception_handler(exc: Exception, context: Mapping[str, Any]) -> Response | None:
    """Answer any refusal; None for what is a mistake of ours, which Django logs and answers as 500."""
    refusal = _refusal(exc)
    if refusal is None:
        return None
    status = status_of(refusal.code)
    headers = dict(refusal.headers)
    if status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", CHALLENGE)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    request = context.get("request")
    request_id = getattr(getattr(request, "_request", request), "request_id", None) or request_id_from(None)
    body = envelope(refusal.code, refusal.message, status, request_id, refusal.fields, refusal.extra)
    return Response(body, status=status, headers=headers)


def _refusal(exc: Exception) -> Refusal | None:
    match exc:
        case KeyturnError():
            return Refusal(exc.code, exc.message, exc.fields, exc.extra)
        case SecretRefused():
            return Refusal("validation_error", fields={"secret": [exc.message]}, extra={"reason": exc.code})
        case exceptions.APIException():
            return _framework(exc)
        case Http404():
            return Refusal("not_found")
        case PermissionDenied():
            return Refusal("permission_denied")
        case RequestDataTooBig():
            return Refusal("payload_too_large")
        case UnreadablePostError():
            return Refusal("malformed_json", "The body ended too early.")
        case ModelValidationError():
            return Refusal("validation_error", fields=_model_fields(exc))
    return _trouble(exc)


def _trouble(exc: Exception) -> Refusal | None:
    """What is wrong below us. The log says more than the answer."""
    match exc:
        case IntegrityError():
            log.error("a stored row failed its integrity check", exc_info=exc)
            return Refusal("integrity_error")
        case KeyServiceUnavailable() | KeyringError():
            log.error("the key service is not available", exc_info=exc)
            return Refusal("key_service_unavailable")
        case OperationalError() | InterfaceError():
            log.error("the database is not available", exc_info=exc)
            return Refusal("database_unavailable")
        case DuplicateRow():
            # Two requests passed the same check at once; a constraint stopped the second one.
            log.warning("a constraint of the database refused a change", exc_info=exc)
            return Refusal("invalid_transition", "Somebody else changed the same just now. Look at it again.")
    return None


def _framework(exc: exceptions.APIException) -> Refusal | None:
    match exc:
        case exceptions.NotAuthenticated():
            return Refusal("missing_api_key")
        case exceptions.AuthenticationFailed():
            return Refusal("invalid_api_key", str(exc.detail))
        case exceptions.ParseError():
            return Refusal("malformed_json", str(exc.detail))
        case exceptions.ValidationError():
            return _invalid(exc)
        case exceptions.Throttled():
            return Refusal("rate_limited", headers={"Retry-After": str(_seconds(exc))})
        case exceptions.MethodNotAllowed():
            return Refusal("method_not_allowed")
        case exceptions.NotAcceptable():
            return Refusal("not_acceptable")
        case exceptions.UnsupportedMediaType():
            return Refusal("unsupported_media_type")
    return Refusal(code_for_status(exc.status_code)) if exc.status_code < 500 else None


def _seconds(exc: exceptions.Throttled) -> int:
    wait: float | None = getattr(exc, "wait", None)
    return max(1, int(wait or 1))


def _invalid(exc: exceptions.ValidationError) -> Refusal:
    fields: dict[str, list[str]] = {}
    for path, detail in _leaves(exc.detail, ()):
        fields.setdefault(".".join(path) or "body", []).append(str(detail))
    codes = {getattr(detail, "code", "") for _, detail in _leaves(exc.detail, ())}
    code = "unknown_field" if UNKNOWN_FIELD in codes else "validation_error"
    return Refusal(code, fields=fields)


def _leaves(detail: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each message of a nested error with its place: ``steps.0.weight``."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _leaves(inner, path if name == WHOLE else (*path, str(name)))
    elif isinstance(detail, list):
        nested = any(isinstance(inner, Mapping | list) for inner in detail)
        for position, inner in enumerate(detail):
            yield from _leaves(inner, (*path, str(position)) if nested else path)
    else:
        yield path, detail


def _model_fields(exc: ModelValidationError) -> dict[str, list[str]]:
    if hasattr(exc, "error_dict"):
        return {name if name != "__all__" else "body": texts for name, texts in exc.message_dict.items()}
    return {"body": list(exc.messages)}
