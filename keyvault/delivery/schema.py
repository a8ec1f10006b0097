"""The consumer paths in OpenAPI 3.1, for the document that the management API serves.

``paths()`` and ``components()`` are self-contained; the API merges them into its own document.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from keyvault.crypto.access_tokens import MAX_LIFETIME
from keyvault.crypto.globs import MAX_GLOB_BYTES, MAX_GLOBS
from keyvault.delivery.answer import FORMATS
from keyvault.delivery.listing import DEFAULT_LIMIT, MAX_LIMIT
from keyvault.delivery.reports import MAX_COUNT, MAX_LINES, MAX_SEQUENCE
from keyvault.delivery.tokens import DEFAULT_LIFETIME
from keyvault.delivery.watch import DEFAULT_TIMEOUT, MAX_TIMEOUT
from keyvault.domain import VERBS
from keyvault.errors import CODES
from keyvault.models.activity import OUTCOMES
from keyvault.models.base import SLUG
from keyvault.services.usage import CREDENTIALS

Object = dict[str, Any]

INSTANCE_PATTERN: Final = "^[A-Za-z0-9._:-]{1,128}$"
_TAG: Final = "Delivery"
_ETAG_PATTERN: Final = '^(W/)?"?[0-9a-f]{32}"?$'

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
    503: ("integrity_error", "key_service_unavailable", "audit_unavailable", "database_unavailable"),
}
_EVERYWHERE: Final = (400, 401, 403, 405, 429, 500, 503)
_BODY: Final = (413, 415)
_KEY: Final = (404, 410)


def _string(description: str = "", **more: Any) -> Object:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _integer(low: int, high: int, **more: Any) -> Object:
    return {"type": "integer", "minimum": low, "maximum": high, **more}


def _object(properties: Object, *, required: Iterable[str] | None = None, description: str = "") -> Object:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties) if required is None else list(required),
        "properties": properties,
        **({"description": description} if description else {}),
    }


def _ref(section: str, name: str) -> Object:
    return {"$ref": f"#/components/{section}/{name}"}


def _time(description: str, *, nullable: bool = False) -> Object:
    return {
        "type": ["string", "null"] if nullable else "string",
        "format": "date-time",
        "description": description,
    }


def _query(name: str, description: str, schema: Object) -> Object:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _json(description: str, schema: str, headers: Iterable[str] = (), *, limited: bool = True) -> Object:
    return {
        "description": description,
        "headers": _headers(headers, limited=limited),
        "content": {"application/json": {"schema": _ref("schemas", schema)}},
    }


def _headers(names: Iterable[str], *, limited: bool = True) -> Object:
    counted = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset") if limited else ()
    return {name: _ref("headers", name) for name in ("X-Request-ID", *counted, *names)}


def _operation(
    name: str, summary: str, responses: Object, *, refusals: Iterable[int] = (), **more: Any
) -> Object:
    codes = sorted({*_EVERYWHERE, *refusals})
    return {
        "operationId": name,
        "tags": [_TAG],
        "summary": summary,
        "security": [{"consumerToken": []}, {"consumerTokenBearer": []}, {"accessToken": []}],
        "responses": {**responses, **{str(code): _ref("responses", f"Delivery{code}") for code in codes}},
        **more,
    }


def _with_head(get: Object) -> Object:
    """GET, and HEAD with the same answers without their bodies."""
    answers = {
        status: {name: part for name, part in answer.items() if name != "content"}
        for status, answer in get["responses"].items()
    }
    head = {**get, "operationId": f"{get['operationId']}Head", "responses": answers}
    return {"get": get, "head": head}


# Paths ---------------------------------------------------------------------------------------------


def paths() -> Object:
    """Path items by path, as they stand in ``paths`` of an OpenAPI document."""
    return {
        "/v1/keys/": _with_head(_list_operation()),
        "/v1/keys/{service}/{environment}/": {"parameters": _place(), **_with_head(_key_operation())},
        "/v1/keys/{service}/{environment}/watch/": {"parameters": _place(), "get": _watch_operation()},
        "/v1/keys/{service}/{environment}/reports/": {"parameters": _place(), "post": _report_operation()},
        "/v1/auth/access-token/": {"post": _mint_operation()},
        "/v1/auth/whoami/": _with_head(
            _operation("whoAmI", "Who am I", {"200": _json("The caller as Keyturn sees it.", "WhoAmI")})
        ),
        "/v1/auth/revoke-self/": {"post": _revoke_operation()},
        "/v1/.well-known/jwks.json": _with_head(_jwks_operation()),
    }


def _place() -> list[Object]:
    slug = {"type": "string", "pattern": f"^{SLUG}$"}
    return [
        {"name": name, "in": "path", "required": True, "schema": slug} for name in ("service", "environment")
    ]


def _list_operation() -> Object:
    parameters = [
        _query("limit", "Most items on the page.", _integer(1, MAX_LIMIT, default=DEFAULT_LIMIT)),
        _query("cursor", "`next_cursor` of the page before.", {"type": "string"}),
    ]
    answer = {"200": _json("Keys that this caller may read, by service.", "KeyPage")}
    return _operation("listReadableKeys", "Keys that I may read", answer, parameters=parameters)


def _choosing() -> list[Object]:
    """Parameters that say which version, for whom, in which form."""
    held = {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}
    instance = {"type": "string", "pattern": INSTANCE_PATTERN}
    version = {"type": "string", "pattern": "^(current|pending|previous|[1-9][0-9]{0,8})$"}
    return [
        _query("instance", "The running copy that asks; also as the header `X-Instance-ID`.", instance),
        _query("version", "A label or a number; needs the verb `versions`.", version),
        _query(
            "format",
            "`raw`: the key alone. `env`: lines for a shell.",
            {"enum": list(FORMATS), "default": "json"},
        ),
        {**held, "description": "The ETag of the last answer: 304 without a key while nothing changed."},
    ]


def _delivered() -> Object:
    answer = _json("The key for this caller and instance.", "DeliveredKey", ["ETag"])
    answer["content"]["text/plain"] = {"schema": {"type": "string"}}
    return {
        "200": answer,
        "304": {"description": "The caller has this version already.", "headers": _headers(["ETag"])},
    }


def _key_operation() -> Object:
    return _operation("getKey", "The key for me", _delivered(), refusals=_KEY, parameters=_choosing())


def _watch_operation() -> Object:
    parameters = [
        _query("etag", "The ETag that the caller has.", {"type": "string", "pattern": _ETAG_PATTERN}),
        _query("timeout", "Seconds to wait.", _integer(1, MAX_TIMEOUT, default=DEFAULT_TIMEOUT)),
        *_choosing(),
    ]
    return _operation(
        "watchKey", "The key for me, once it changes", _delivered(), refusals=_KEY, parameters=parameters
    )


def _request_body(schema: str) -> Object:
    return {"required": True, "content": {"application/json": {"schema": _ref("schemas", schema)}}}


def _report_operation() -> Object:
    return _operation(
        "reportUsage",
        "How the versions have worked",
        {"202": _json("Stored; also for a report that is known already.", "ReportAccepted")},
        refusals=(404, *_BODY),
        requestBody=_request_body("UsageReport"),
    )


def _mint_operation() -> Object:
    operation = _operation(
        "mintAccessToken",
        "A short-lived token for some paths",
        {"201": _json("The token; it is not stored.", "AccessToken")},
        refusals=_BODY,
        requestBody=_request_body("AccessTokenWanted"),
    )
    return {**operation, "security": [{"consumerToken": []}, {"consumerTokenBearer": []}]}


def _revoke_operation() -> Object:
    ended = {"204": {"description": "The presented token is refused from now on.", "headers": _headers([])}}
    operation = _operation("revokeSelf", "End my token", ended, refusals=_BODY)
    return {**operation, "security": [{"consumerToken": []}, {"consumerTokenBearer": []}]}


def _jwks_operation() -> Object:
    found = {"200": _json("Public keys to check access tokens with.", "PublicKeys", limited=False)}
    operation = _operation("publicKeys", "Public keys", found)
    kept = {
        status: found
        for status, found in operation["responses"].items()
        if status not in ("401", "403", "429")
    }
    return {**operation, "security": [], "responses": kept}


# Components ----------------------------------------------------------------------------------------


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
            "DeliveryError": _error_schema(),
        },
    }


def _security_schemes() -> Object:
    token = "A consumer token (`ktc_…`)."
    return {
        "consumerToken": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": token},
        "consumerTokenBearer": {"type": "http", "scheme": "bearer", "description": token},
        "accessToken": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`AccessToken` and a token from `/v1/auth/access-token/`.",
        },
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
        "RateLimit-Limit": header("Requests per minute that this token may make."),
        "RateLimit-Remaining": header("Requests left in this minute."),
        "RateLimit-Reset": header("Seconds until the minute is over."),
    }


def _refusal(status: int, codes: tuple[str, ...]) -> Object:
    more = {401: ["WWW-Authenticate"], 405: ["Allow"], 429: ["Retry-After"], 503: ["Retry-After"]}
    told = " ".join(f"`{code}`: {CODES[code][1]}" for code in codes)
    return {
        "description": f"{HTTPStatus(status).phrase}. {told}",
        "headers": _headers(more.get(status, ()), limited=status == 429),
        "content": {"application/json": {"schema": _ref("schemas", "DeliveryError")}},
    }


def _error_schema() -> Object:
    fields = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
    error = _object(
        {
            "code": {"enum": sorted({code for codes in _REFUSALS.values() for code in codes})},
            "message": _string("For people. Never holds what was sent."),
            "status": _integer(400, 599),
            "request_id": _string(),
            "fields": {**fields, "description": "What is wrong with which field."},
        },
        required=["code", "message", "status", "request_id"],
    )
    return _object({"error": error})


def _key_schemas() -> Object:
    weight = {"type": ["integer", "null"], "minimum": 0, "maximum": 100}
    auth = _object(
        {
            "header": _string("The header that the provider reads."),
            "scheme": _string("What stands before the key in it; may be empty."),
            "base_url": _string(),
        }
    )
    item = {
        "service": _string(),
        "environment": _string(),
        "provider": _string(),
        "verbs": {"type": "array", "items": {"enum": list(VERBS)}},
        "weight": weight,
    }
    return {
        "DeliveredKey": _object(
            {
                "service": _string(),
                "environment": _string(),
                "version": {"type": "integer", "minimum": 1},
                "label": {"enum": ["current", "pending", "previous", None]},
                "key": _string("The secret."),
                "fingerprint": _string("To compare by eye; tells nothing of the secret."),
                "provider": _string(),
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
                "expires_at": _time("When the provider stops honouring this version.", nullable=True),
            }
        ),
        "KeyPage": _object(
            {"items": {"type": "array", "items": _object(item)}, "next_cursor": {"type": ["string", "null"]}}
        ),
    }


def _report_schemas() -> Object:
    counters = {name: _integer(0, MAX_COUNT, default=0) for name in (*OUTCOMES, "jobs_opened", "jobs_closed")}
    line = {
        "version": _integer(1, MAX_COUNT),
        "credential": {"enum": list(CREDENTIALS), "default": "key"},
        **counters,
    }
    report = {
        "instance": _string(
            "Defaults to the `X-Instance-ID`, else to the consumer.", pattern=INSTANCE_PATTERN
        ),
        "sequence": _integer(0, MAX_SEQUENCE, description="A report with a known sequence is stored once."),
        "from": _time("At most 24 hours ago."),
        "to": _time("At most 5 minutes ahead."),
        "versions": {"type": "array", "maxItems": MAX_LINES, "items": _object(line, required=["version"])},
    }
    return {
        "UsageReport": _object(report, required=["sequence", "from", "to", "versions"]),
        "ReportAccepted": _object({"accepted": {"const": True}, "duplicate": {"type": "boolean"}}),
    }


def _token_schemas() -> Object:
    glob = _string(
        "`*` inside a segment, a final `/*` for all below, or `*` alone.", maxLength=MAX_GLOB_BYTES
    )
    globs = {"type": "array", "minItems": 1, "maxItems": MAX_GLOBS, "items": glob, "default": ["*"]}
    grant = _object(
        {
            "service": _string(),
            "environment": _string(),
            "verbs": {"type": "array", "items": {"enum": list(VERBS)}},
        }
    )
    jwk = {name: _string() for name in ("kty", "crv", "use", "alg", "kid", "x")}
    token = _object(
        {"id": _string(format="uuid"), "hint": _string(), "expires_at": _time("Its end.", nullable=True)}
    )
    return {
        "AccessTokenWanted": _object(
            {"paths": globs, "expires_in": _integer(1, MAX_LIFETIME, default=DEFAULT_LIFETIME)}, required=[]
        ),
        "AccessToken": _object(
            {
                "access_token": _string(),
                "token_type": {"const": "AccessToken"},
                "expires_in": _integer(1, MAX_LIFETIME),
                "expires_at": _time("Its end."),
            }
        ),
        "WhoAmI": _object(
            {
                "consumer": _string(),
                "environment": _string(),
                "credential": {"enum": ["consumer_token", "access_token"]},
                "token": token,
                "expires_at": _time("The end of what was presented.", nullable=True),
                "paths": {"type": ["array", "null"], "items": {"type": "string"}},
                "rate_limit": _string("Such as `600/min`."),
                "grants": {"type": "array", "items": grant},
            }
        ),
        "PublicKeys": _object({"keys": {"type": "array", "items": _object(jwk)}}),
    }
