"""What the description of the consumer paths refers to: schemas, headers, refusals, security schemes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from keyvault.crypto.access_tokens import MAX_LIFETIME
from keyvault.crypto.globs import MAX_GLOB_BYTES, MAX_GLOBS
from keyvault.delivery.reports import MAX_COUNT, MAX_LINES, MAX_SEQUENCE
from keyvault.delivery.schema_parts import (
    INSTANCE_PATTERN,
    Object,
    closed,
    headers,
    integer,
    ref,
    string,
    time,
)
from keyvault.delivery.tokens import DEFAULT_LIFETIME
from keyvault.delivery.verify import CODES as CODES_OF_KEYS
from keyvault.delivery.verify import VALID
from keyvault.domain import VERBS
from keyvault.errors import CODES
from keyvault.models.activity import OUTCOMES
from keyvault.services.usage import CREDENTIALS

# What a consumer can be refused with; the rest of the codes belongs to management.
_REFUSALS: Final = {
    400: (
        "malformed_json",
        "malformed_path",
        "validation_error",
        "unknown_field",
        "ambiguous_credentials",
        "credential_in_url",
        "bad_host",
    ),
    401: (
        "missing_api_key",
        "invalid_api_key",
        "invalid_access_token",
        "access_token_expired",
        "path_not_allowed",
    ),
    403: ("permission_denied", "access_token_not_allowed"),
    404: ("not_found", "no_active_version"),
    405: ("method_not_allowed",),
    410: ("version_gone",),
    413: ("payload_too_large",),
    415: ("unsupported_media_type",),
    429: ("rate_limited",),
    500: ("internal_error",),
    503: (
        "integrity_error",
        "key_service_unavailable",
        "quarantined",
        "audit_unavailable",
        "database_unavailable",
    ),
}


def components() -> Object:
    """What the path items refer to, by section of ``components``."""
    return {
        "securitySchemes": _security_schemes(),
        "headers": _header_components(),
        "responses": {f"Delivery{status}": _refusal(status, codes) for status, codes in _REFUSALS.items()},
        "schemas": {
            **_key_schemas(),
            **_report_schemas(),
            **_token_schemas(),
            **_verification_schemas(),
            "DeliveryError": _error_schema(),
        },
    }


def _security_schemes() -> Object:
    token, issued = "A consumer token (`ktc_…`).", "A key that Keyturn issued (`ktk_…`)."
    return {
        "consumerToken": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": token},
        "consumerTokenBearer": {"type": "http", "scheme": "bearer", "description": token},
        "accessToken": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`AccessToken` and a token from `/v1/auth/access-token/`.",
        },
        "issuedKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": issued},
        "issuedKeyBearer": {"type": "http", "scheme": "bearer", "description": issued},
    }


def _header_components() -> Object:
    def header(description: str, kind: str = "integer") -> Object:
        return {"description": description, "schema": {"type": kind}}

    return {
        "X-Request-ID": header("The id of this request in the log.", "string"),
        "ETag": header("Opaque: changes with the version and its label.", "string"),
        "WWW-Authenticate": header("How to authenticate.", "string"),
        "Allow": header("The methods that this path takes.", "string"),
        "Retry-After": header("Seconds to wait."),
        "X-Keyturn-Service": header("The service that the key belongs to.", "string"),
        "X-Keyturn-Environment": header("The environment that the key belongs to.", "string"),
        "X-Keyturn-Version": header("The number of the version that the key is."),
        "RateLimit-Limit": header("Requests per minute that this token may make."),
        "RateLimit-Remaining": header("Requests left in this minute."),
        "RateLimit-Reset": header("Seconds until the minute is over."),
    }


def _refusal(status: int, codes: tuple[str, ...]) -> Object:
    more = {401: ["WWW-Authenticate"], 405: ["Allow"], 429: ["Retry-After"], 503: ["Retry-After"]}
    told = " ".join(f"`{code}`: {CODES[code][1]}" for code in codes)
    return {
        "description": f"{HTTPStatus(status).phrase}. {told}",
        "headers": headers(more.get(status, ()), limited=status == 429),
        "content": {"application/json": {"schema": ref("schemas", "DeliveryError")}},
    }


def _error_schema() -> Object:
    fields = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
    error = closed(
        {
            "code": {"enum": sorted({code for codes in _REFUSALS.values() for code in codes})},
            "message": string("For people. Never holds what was sent."),
            "status": integer(400, 599),
            "request_id": string(),
            "fields": {**fields, "description": "What is wrong with which field."},
        },
        required=["code", "message", "status", "request_id"],
    )
    return closed({"error": error})


def _key_schemas() -> Object:
    weight = {"type": ["integer", "null"], "minimum": 0, "maximum": 100}
    auth = closed(
        {
            "header": string("The header that the provider reads."),
            "scheme": string("What stands before the key in it; may be empty."),
            "base_url": string(),
        }
    )
    item = {
        "service": string(),
        "environment": string(),
        "provider": string(),
        "verbs": {"type": "array", "items": {"enum": list(VERBS)}},
        "weight": weight,
    }
    return {
        "DeliveredKey": closed(
            {
                "service": string(),
                "environment": string(),
                "version": {"type": "integer", "minimum": 1},
                "label": {"enum": ["current", "pending", "previous", None]},
                "key": string("The secret."),
                "fingerprint": string("To compare by eye; tells nothing of the secret."),
                "provider": string(),
                "auth": auth,
                "weight": {
                    **weight,
                    "description": "Share of instances on the pending version; null while none is.",
                },
                "refresh_after": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "Ask again after so many seconds.",
                },
                "expires_at": time("When the provider stops honouring this version.", nullable=True),
            }
        ),
        "ReadableKeys": closed(
            {"items": {"type": "array", "items": closed(item)}, "next_cursor": {"type": ["string", "null"]}}
        ),
    }


def _report_schemas() -> Object:
    counters = {name: integer(0, MAX_COUNT, default=0) for name in (*OUTCOMES, "jobs_opened", "jobs_closed")}
    line = {
        "version": integer(1, MAX_COUNT),
        "credential": {"enum": list(CREDENTIALS), "default": "key"},
        **counters,
    }
    report = {
        "instance": string(
            "Defaults to the `X-Instance-ID`, else to the consumer.", pattern=INSTANCE_PATTERN
        ),
        "sequence": integer(0, MAX_SEQUENCE, description="A report with a known sequence is stored once."),
        "from": time("At most 24 hours ago."),
        "to": time("At most 5 minutes ahead."),
        "versions": {"type": "array", "maxItems": MAX_LINES, "items": closed(line, required=["version"])},
    }
    return {
        "UsageReport": closed(report, required=["sequence", "from", "to", "versions"]),
        "ReportAccepted": closed({"accepted": {"const": True}, "duplicate": {"type": "boolean"}}),
    }


def _token_schemas() -> Object:
    glob = string("`*` inside a segment, a final `/*` for all below, or `*` alone.", maxLength=MAX_GLOB_BYTES)
    globs = {"type": "array", "minItems": 1, "maxItems": MAX_GLOBS, "items": glob, "default": ["*"]}
    grant = closed(
        {
            "service": string(),
            "environment": string(),
            "verbs": {"type": "array", "items": {"enum": list(VERBS)}},
        }
    )
    jwk = {name: string() for name in ("kty", "crv", "use", "alg", "kid", "x")}
    token = closed(
        {"id": string(format="uuid"), "hint": string(), "expires_at": time("Its end.", nullable=True)}
    )
    return {
        "AccessTokenWanted": closed(
            {"paths": globs, "expires_in": integer(1, MAX_LIFETIME, default=DEFAULT_LIFETIME)}, required=[]
        ),
        "AccessToken": closed(
            {
                "access_token": string(),
                "token_type": {"const": "AccessToken"},
                "expires_in": integer(1, MAX_LIFETIME),
                "expires_at": time("Its end."),
            }
        ),
        "WhoAmI": closed(
            {
                "consumer": string(),
                "environment": string(),
                "credential": {"enum": ["consumer_token", "access_token"]},
                "token": token,
                "expires_at": time("The end of what was presented.", nullable=True),
                "paths": {"type": ["array", "null"], "items": {"type": "string"}},
                "rate_limit": string("Such as `600/min`."),
                "instance_limit": {
                    "type": ["integer", "null"],
                    "minimum": 1,
                    "description": "How many instances may fetch with the token; null: any number.",
                },
                "grants": {"type": "array", "items": grant},
            }
        ),
        "PublicKeys": closed({"keys": {"type": "array", "items": closed(jwk)}}),
    }


def _verification_schemas() -> Object:
    good = closed(
        {
            "valid": {"const": True},
            "code": {"const": VALID},
            "service": string(),
            "environment": string(),
            "version": {"type": "integer", "minimum": 1},
            "label": {
                "enum": ["current", "pending", "previous", None],
                "description": "Null for a version without a label.",
            },
        }
    )
    bad = closed(
        {"valid": {"const": False}, "code": {"enum": [code for code in CODES_OF_KEYS if code != VALID]}}
    )
    return {
        "KeyToVerify": closed({"key": string("The key that was presented to you.", minLength=1)}),
        "Verified": {"oneOf": [good, bad]},
    }
