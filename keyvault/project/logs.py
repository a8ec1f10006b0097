"""Structured logs on standard error, one JSON object a line, scrubbed of secrets.

Scrubbing is the second line of defence: code passes ``Secret`` and never plaintext. It works on our own
events and on those of other libraries, by the name of a field and by the shape of a value.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from keyvault.crypto.secret import Secret

MASK = "***"

# Exact names after lower-casing and "-" -> "_". A field that names a key of ours is called key_path.
_SECRET_NAMES = frozenset(
    [
        "access_token",
        "admin_secret",
        "api_key",
        "apikey",
        "authorization",
        "ciphertext",
        "client_secret",
        "cookie",
        "cookies",
        "csrftoken",
        "dek",
        "key",
        "passphrase",
        "password",
        "password1",
        "password2",
        "pepper",
        "private_key",
        "proxy_authorization",
        "raw_key",
        "secret",
        "secret_key",
        "session",
        "sessionid",
        "set_cookie",
        "supplied",
        "token",
        "wrapped_dek",
        "x_api_key",
        "x_auth_token",
    ]
)

_SECRET_SHAPES = (
    # our own tokens: consumer, user, issued key; the short hint (ktc_prod_ab12) stays readable
    (re.compile(r"\bkt[cuk]_(?:[A-Za-z0-9-]+_)?[A-Za-z0-9]{12,}"), MASK),
    # signed tokens in three parts
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), MASK),
    # a credential behind its scheme, as in a printed header
    (re.compile(r"(?i)\b(Bearer|Token|AccessToken|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1\2{MASK}"),
    # a password inside a URL
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@"), rf"\1:{MASK}@"),
    # the one-time links: of the first administrator, and of people who were invited
    (re.compile(r"(/(?:setup|join)/)[A-Za-z0-9_-]{8,}"), rf"\1{MASK}"),
)

_MAX_DEPTH = 8


def scrub(value: object, depth: int = 0) -> object:
    """The same value with everything masked that is, or looks like, a secret."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, str):
        for shape, replacement in _SECRET_SHAPES:
            value = shape.sub(replacement, value)
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        # Bytes in a log are ciphertext, digests or a raw body; none of them helps a reader.
        return f"<{len(value)} bytes>"
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {
            scrub(str(name)): MASK if _is_secret_name(str(name)) else scrub(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(item, depth + 1) for item in value]
    return scrub(str(value), depth + 1)


def _is_secret_name(name: str) -> bool:
    return name.lower().replace("-", "_").removeprefix("http_") in _SECRET_NAMES


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The structlog processor around :func:`scrub`."""
    return {
        name: MASK if _is_secret_name(name) else scrub(item)
        for name, item in event.items()
        if not name.startswith("_")
    }


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _final() -> list[Processor]:
    return [
        # Local variables would put plaintext into a traceback.
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        redact,
        structlog.processors.JSONRenderer(sort_keys=True),
    ]


def configure_structlog() -> None:
    """Send structlog's events through the standard logging of :func:`logging_settings`."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def logging_settings(level: str) -> dict[str, Any]:
    """Django's ``LOGGING``: every logger of the process ends in the one scrubbed handler."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _shared(),
                "processors": _final(),
                "keep_exc_info": False,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Its own handlers would print unscrubbed lines and mail them.
            "django": {"handlers": [], "propagate": True, "level": "INFO"},
            "django.server": {"handlers": [], "propagate": True},
            # Every request is logged once, by our middleware.
            "django.request": {"level": "ERROR"},
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
            # They would print the answers of KMS, with what it opened.
            "boto3": {"level": "WARNING"},
            "botocore": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
        },
    }
