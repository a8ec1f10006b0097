"""Step 7: what goes back, for success and for every kind of failure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog
from django.db import InterfaceError, InternalError, OperationalError

from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.crypto.secret import Secret
from keyvault.delivery.choose import Choice
from keyvault.delivery.record import NotRecorded
from keyvault.errors import envelope, status_of
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Key
from keyvault.services.keys import DEFAULT_REFRESH_SECONDS

log = structlog.get_logger("keyturn.delivery")

Headers = tuple[tuple[str, str], ...]

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
FORMATS = ("json", "raw", "env")
RETRY_SECONDS = 5
_CHALLENGE = 'Bearer realm="keyturn", Token realm="keyturn", AccessToken realm="keyturn"'


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; the body never shows in a repr."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = JSON
    headers: Headers = ()
    code: str = ""

    def adding(self, headers: Headers) -> Answer:
        """The same answer with more headers; a name that is there already keeps its text."""
        known = {name for name, _ in self.headers}
        return replace(self, headers=self.headers + tuple(pair for pair in headers if pair[0] not in known))


def as_json(status: int, body: Mapping[str, object], headers: Headers = ()) -> Answer:
    return Answer(status, json.dumps(body).encode(), JSON, headers)


def stamp(moment: datetime | None) -> str | None:
    """A time as the contract prints it: ISO 8601 in UTC with Z."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def check_format(name: str) -> str:
    if name not in FORMATS:
        raise invalid("format", "Use json, raw or env.")
    return name


def deliver(key: Key, choice: Choice, secret: Secret, form: str) -> Answer:
    """The answer with the key in it, as JSON, as bare text, or as lines for a shell."""
    etag: Headers = (("ETag", choice.etag),)
    if form == "raw":
        return Answer(200, secret.expose().encode(), TEXT, etag)
    if form == "env":
        return Answer(200, _env_lines(key, choice, secret).encode(), TEXT, etag)
    provider = key.service.provider
    version = choice.version
    auth = {"header": provider.auth_header, "scheme": provider.auth_scheme, "base_url": provider.base_url}
    body = {
        "service": key.service.slug,
        "environment": key.environment.slug,
        "version": version.number,
        "label": choice.label or None,
        "key": secret.expose(),
        "fingerprint": version.short_fingerprint,
        "provider": provider.slug,
        "auth": auth,
        "weight": key.weight if key.pending_id else None,
        "refresh_after": _refresh_after(key),
        "expires_at": stamp(version.expires_at),
    }
    return as_json(200, body, etag)


def _refresh_after(key: Key) -> int:
    """Seconds until the caller should ask again: the policy's while a rotation runs."""
    return key.refresh_seconds if key.pending_id or key.previous_id else DEFAULT_REFRESH_SECONDS


def variable_prefix(service: str) -> str:
    """``background-removal`` -> ``BACKGROUND_REMOVAL``; never starts with a digit, which no shell takes."""
    name = re.sub(r"[^A-Z0-9]", "_", service.upper())
    return f"_{name}" if name[0].isdigit() else name


def _env_lines(key: Key, choice: Choice, secret: Secret) -> str:
    prefix = variable_prefix(key.service.slug)
    lines = [f"{prefix}_API_KEY={shlex.quote(secret.expose())}"]
    if key.service.provider.base_url:
        lines.append(f"{prefix}_BASE_URL={shlex.quote(key.service.provider.base_url)}")
    lines.append(f"{prefix}_KEY_VERSION={choice.version.number}")
    return "\n".join(lines) + "\n"


def without_key(choice: Choice, status: int) -> Answer:
    """An answer that carries the ETag only: 304, or the headers that HEAD asked for."""
    return Answer(status, b"", "" if status == 304 else JSON, (("ETag", choice.etag),))


# Failures ------------------------------------------------------------------------------------------


def refusal(error: KeyturnError, request_id: str) -> Answer:
    status = status_of(error.code)
    body = json.dumps(envelope(error.code, error.message, status, request_id, error.fields, error.extra))
    return Answer(status, body.encode(), JSON, _headers_of(status), error.code)


def _headers_of(status: int) -> Headers:
    if status == 401:
        return (("WWW-Authenticate", _CHALLENGE),)
    if status == 503:
        return (("Retry-After", str(RETRY_SECONDS)),)
    return ()


_CODES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((NotRecorded,), "audit_unavailable"),
    ((IntegrityError,), "integrity_error"),
    ((KeyServiceUnavailable, KeyringError), "key_service_unavailable"),
    ((OperationalError, InterfaceError, InternalError), "database_unavailable"),
)


def failure(error: Exception, request_id: str) -> Answer:
    """The answer to any exception. Outsiders get a code; the log gets the reason."""
    if isinstance(error, KeyturnError):
        return refusal(error, request_id)
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            log.error("not delivered", code=code, error=type(error).__name__)
            return plain(code, request_id)
    log.error("delivery failed", exc_info=error)
    return plain("internal_error", request_id)


def plain(code: str, request_id: str, headers: Headers = ()) -> Answer:
    """The answer of a code with its default message."""
    status = status_of(code)
    body = json.dumps(envelope(code, None, status, request_id)).encode()
    return Answer(status, body, JSON, headers + _headers_of(status), code)
