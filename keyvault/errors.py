"""The error envelope of the HTTP contract, for every layer that answers: delivery, DRF, Django, the front.

No framework is imported here, so that all of them can use it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

# Status and default message of every code that a caller may see. The message never holds what was sent.
CODES: Final[Mapping[str, tuple[int, str]]] = {
    # 400
    "malformed_json": (400, "The body is not valid JSON."),
    "malformed_path": (400, "The path is not in canonical form."),
    "validation_error": (400, "The request is not valid."),
    "unknown_field": (400, "The request has a field that is not known here."),
    "ambiguous_credentials": (400, "Send exactly one credential, once."),
    "credential_in_url": (400, "Credentials are not accepted in the URL."),
    "bad_host": (400, "The Host header is not one that this server answers to."),
    "url_scheme": (400, "The address must begin with https://."),
    "url_invalid": (400, "The address is not a plain https URL."),
    "url_forbidden_host": (400, "The address is not on the public internet."),
    "url_not_found": (400, "The name in the address was not found."),
    # 401
    "missing_api_key": (401, "Missing API key."),
    "invalid_api_key": (401, "Invalid or revoked API key."),
    "invalid_access_token": (401, "Invalid access token."),
    "access_token_expired": (401, "The access token has expired."),
    "path_not_allowed": (401, "The access token does not cover this path."),
    # 403
    "permission_denied": (403, "You are not allowed to do this."),
    "reauthentication_required": (
        403,
        "This needs a person who has signed in again just now, in the console.",
    ),
    "approval_required": (403, "Another person has to approve this first."),
    "access_token_not_allowed": (403, "An access token cannot do this."),
    # 404
    "not_found": (404, "Not found."),
    "no_active_version": (404, "This key has no active version."),
    # 405, 406
    "method_not_allowed": (405, "This method is not allowed here."),
    "not_acceptable": (406, "Answers are JSON only."),
    # 409, 410, 412
    "rotation_in_progress": (409, "A rotation of this key is already open."),
    "rehearsal_required": (409, "It has to be rotated in a lower environment first."),
    "invalid_transition": (409, "This is not possible in the present state."),
    "idempotency_in_flight": (409, "A request with this idempotency key is still being worked on."),
    "version_gone": (410, "This version no longer exists."),
    "precondition_failed": (412, "It has changed since you read it."),
    # 413, 415, 422, 429
    "payload_too_large": (413, "The body is larger than 64 KiB."),
    "unsupported_media_type": (415, "Send application/json."),
    "idempotency_mismatch": (422, "This idempotency key was used with another body."),
    "rate_limited": (429, "Too many requests."),
    # 500, 503
    "internal_error": (500, "Something went wrong on our side."),
    "integrity_error": (503, "A stored secret failed its integrity check."),
    "key_service_unavailable": (503, "The key service is not available."),
    "quarantined": (
        503,
        "The database was restored: this key is held back until somebody has reconciled it.",
    ),
    "audit_unavailable": (503, "The access could not be recorded."),
    "database_unavailable": (503, "The database is not available."),
}

_BY_STATUS: Final[Mapping[int, str]] = {
    400: "validation_error",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "invalid_transition",
    410: "version_gone",
    412: "precondition_failed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "idempotency_mismatch",
    429: "rate_limited",
    500: "internal_error",
    503: "database_unavailable",
}

MAX_BODY_BYTES: Final = 64 * 1024
# What an answer to a program says to a browser, should one ask: this is no page, and nothing is done with it.
NO_PAGE: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


def status_of(code: str) -> int:
    """The HTTP status of a code. An unknown code is a mistake of ours and raises ``KeyError``."""
    return CODES[code][0]


def code_for_status(status: int) -> str:
    """The code for an error that is known by its status only, as those raised below DRF are."""
    return _BY_STATUS.get(status, "validation_error" if status < 500 else "internal_error")


def envelope(
    code: str,
    message: str | None,
    status: int | None,
    request_id: str,
    fields: Mapping[str, Iterable[str]] | None = None,
    extra: Mapping[str, object] | None = None,
) -> dict[str, dict[str, object]]:
    """The body of every error answer.

    ``message`` and ``status`` default to those of the code. ``fields`` maps an input field to what is
    wrong with it; ``extra`` (the state and the verbs of an ``invalid_transition``) joins the error object.
    """
    default_status, default_message = CODES[code]
    error: dict[str, object] = {
        **(extra or {}),
        "code": code,
        "message": message or default_message,
        "status": status or default_status,
        "request_id": request_id,
    }
    if fields:
        error["fields"] = {name: list(texts) for name, texts in fields.items()}
    return {"error": error}


def envelope_bytes(code: str, request_id: str, message: str | None = None) -> tuple[int, bytes]:
    """Status and encoded body of a plain error, for those who write bytes themselves."""
    return status_of(code), json.dumps(envelope(code, message, None, request_id)).encode()


def request_id_from(header: str | None) -> str:
    """The caller's ``X-Request-ID`` where it is well formed, else a fresh one."""
    if header is not None and _REQUEST_ID.fullmatch(header):
        return header
    return f"{_process_id()}{next(_requests):08x}"


_requests = itertools.count(1)


@lru_cache(maxsize=1)
def _process_id() -> str:
    """What the ids of this process start with: unique, without asking for randomness at each request."""
    return secrets.token_hex(8)


# A forked child must not go on with the ids of its parent.
os.register_at_fork(after_in_child=_process_id.cache_clear)
