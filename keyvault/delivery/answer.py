"""Step 7: what goes back, for success and for every kind of failure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

import structlog
from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError

from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.crypto.keyring import Keys
from keyvault.crypto.secret import Secret
from keyvault.delivery.choose import Choice
from keyvault.delivery.lane import Unavailable
from keyvault.delivery.records import KeyRecord
from keyvault.errors import NO_PAGE, envelope, status_of
from keyvault.exceptions import KeyturnError, invalid
from keyvault.limits import Window
from keyvault.services.keys import DEFAULT_REFRESH_SECONDS

log = structlog.get_logger("keyturn.delivery")

# Names in lower case, as they go out.
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
FORMATS = ("json", "raw", "env")
RETRY_SECONDS = 5
_CHALLENGE = b'Bearer realm="keyturn", Token realm="keyturn", AccessToken realm="keyturn"'


class NotRecorded(Exception):
    """The access could not be written down, so it does not happen."""


@cache
def always() -> Headers:
    """What every answer says, and over https for how long it stays so."""
    seconds = settings.SECURE_HSTS_SECONDS
    return (*NO_PAGE, *(((b"strict-transport-security", b"max-age=%d" % seconds),) if seconds else ()))


@dataclass(slots=True)
class Answer:
    """A whole HTTP answer; the body never shows in a repr."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: bytes = JSON
    headers: Headers = ()
    code: str = ""


def limits_of(window: Window) -> Headers:
    """Where the caller stands in this minute."""
    left = window.limit - window.count
    told: Headers = (
        (b"ratelimit-limit", b"%d" % window.limit),
        (b"ratelimit-remaining", b"%d" % max(left, 0)),
        (b"ratelimit-reset", b"%d" % window.reset),
    )
    return told if left >= 0 else (*told, (b"retry-after", b"%d" % window.reset))


def as_json(status: int, body: Mapping[str, object], headers: Headers = ()) -> Answer:
    return Answer(status, json.dumps(body).encode(), JSON, headers)


def stamp(moment: datetime | None) -> str | None:
    """A time as the contract prints it: ISO 8601 in UTC with Z."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def check_format(name: str) -> str:
    if name not in FORMATS:
        raise invalid("format", "Use json, raw or env.")
    return name


def deliver(key: KeyRecord, choice: Choice, secret: Secret, form: str, keys: Keys) -> Answer:
    """The answer with the key in it, as JSON, as bare text, or as lines for a shell."""
    etag, before, after = _parts(key, choice, keys)
    headers: Headers = ((b"etag", etag),)
    if form == "raw":
        return Answer(200, secret.expose().encode(), TEXT, headers)
    if form == "env":
        return Answer(200, _env_lines(key, choice, secret).encode(), TEXT, headers)
    return Answer(200, before + json.dumps(secret.expose()).encode() + after, JSON, headers)


def etag_of(key: KeyRecord, choice: Choice, keys: Keys) -> bytes:
    """The ETag of this choice."""
    return _parts(key, choice, keys)[0]


def _parts(key: KeyRecord, choice: Choice, keys: Keys) -> tuple[bytes, bytes, bytes]:
    """The ETag, and the JSON object before and after the secret; written once for each record."""
    parts = choice.version.parts
    if parts is None:
        etag = choice.etag(keys.service.etag).encode()
        parts = choice.version.parts = (etag, *_around(key, choice))
    return parts


def _around(key: KeyRecord, choice: Choice) -> tuple[bytes, bytes]:
    """The JSON object before and after the secret."""
    version = choice.version
    first = {
        "service": key.service,
        "environment": key.environment,
        "version": version.number,
        "label": choice.label or None,
    }
    rest = {
        "fingerprint": version.fingerprint,
        "provider": key.provider,
        "auth": {"header": key.auth_header, "scheme": key.auth_scheme, "base_url": key.base_url},
        "weight": key.weight,
        "refresh_after": _refresh_after(key),
        "expires_at": stamp(version.expires_at),
    }
    before = json.dumps(first).removesuffix("}") + ', "key": '
    return before.encode(), (", " + json.dumps(rest).removeprefix("{")).encode()


def _refresh_after(key: KeyRecord) -> int:
    """Seconds until the caller should ask again: the policy's while a rotation runs."""
    return key.refresh_seconds if key.changing else DEFAULT_REFRESH_SECONDS


def variable_prefix(service: str) -> str:
    """``background-removal`` -> ``BACKGROUND_REMOVAL``; never starts with a digit, which no shell takes."""
    name = re.sub(r"[^A-Z0-9]", "_", service.upper())
    return f"_{name}" if name[0].isdigit() else name


def _env_lines(key: KeyRecord, choice: Choice, secret: Secret) -> str:
    prefix = variable_prefix(key.service)
    lines = [f"{prefix}_API_KEY={shlex.quote(secret.expose())}"]
    if key.base_url:
        lines.append(f"{prefix}_BASE_URL={shlex.quote(key.base_url)}")
    lines.append(f"{prefix}_KEY_VERSION={choice.version.number}")
    return "\n".join(lines) + "\n"


def without_key(status: int, etag: bytes) -> Answer:
    """An answer that carries the ETag only: 304, or the headers that HEAD asked for."""
    return Answer(status, b"", b"" if status == 304 else JSON, ((b"etag", etag),))


# Failures ------------------------------------------------------------------------------------------


def refusal(error: KeyturnError, request_id: str) -> Answer:
    status = status_of(error.code)
    body = json.dumps(envelope(error.code, error.message, status, request_id, error.fields, error.extra))
    return Answer(status, body.encode(), JSON, _headers_of(status), error.code)


def _headers_of(status: int) -> Headers:
    if status == 401:
        return ((b"www-authenticate", _CHALLENGE),)
    if status == 503:
        return ((b"retry-after", str(RETRY_SECONDS).encode()),)
    return ()


_CODES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((NotRecorded,), "audit_unavailable"),
    ((IntegrityError,), "integrity_error"),
    ((KeyServiceUnavailable, KeyringError), "key_service_unavailable"),
    ((OperationalError, InterfaceError, InternalError, Unavailable), "database_unavailable"),
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
