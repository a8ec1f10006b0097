"""The consumer paths in OpenAPI 3.1, for the document that the management API serves.

``paths()`` and ``components()`` are self-contained; the API merges them into its own document.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from keyvault.delivery.answer import FORMATS
from keyvault.delivery.listing import DEFAULT_LIMIT, MAX_LIMIT
from keyvault.delivery.schema_components import components
from keyvault.delivery.schema_parts import INSTANCE_PATTERN, Object, headers, in_json, integer, query, ref
from keyvault.delivery.watch import DEFAULT_TIMEOUT, MAX_TIMEOUT
from keyvault.models.base import SLUG

__all__ = ["components", "paths"]

_TAG: Final = "Delivery"
_ETAG_PATTERN: Final = '^(W/)?"?[0-9a-f]{32}"?$'
_EVERYWHERE: Final = (400, 401, 403, 405, 429, 500, 503)
_BODY: Final = (413, 415)
_KEY: Final = (404, 410)


def _operation(
    name: str, summary: str, responses: Object, *, refusals: Iterable[int] = (), **more: Any
) -> Object:
    codes = sorted({*_EVERYWHERE, *refusals})
    return {
        "operationId": name,
        "tags": [_TAG],
        "summary": summary,
        "security": [{"consumerToken": []}, {"consumerTokenBearer": []}, {"accessToken": []}],
        "responses": {**responses, **{str(code): ref("responses", f"Delivery{code}") for code in codes}},
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
            _operation("whoAmI", "Who am I", {"200": in_json("The caller as Keyturn sees it.", "WhoAmI")})
        ),
        "/v1/auth/revoke-self/": {"post": _revoke_operation()},
        "/v1/.well-known/jwks.json": _with_head(_jwks_operation()),
        "/v1/verify/": {"post": _verify_operation()},
        "/v1/forward-auth/": _forward_auth_operations(),
    }


def _place() -> list[Object]:
    slug = {"type": "string", "pattern": f"^{SLUG}$"}
    return [
        {"name": name, "in": "path", "required": True, "schema": slug} for name in ("service", "environment")
    ]


def _list_operation() -> Object:
    parameters = [
        query("limit", "Most items on the page.", integer(1, MAX_LIMIT, default=DEFAULT_LIMIT)),
        query("cursor", "`next_cursor` of the page before.", {"type": "string"}),
    ]
    answer = {"200": in_json("Keys that this caller may read, by service.", "ReadableKeys")}
    return _operation("listReadableKeys", "Keys that I may read", answer, parameters=parameters)


def _choosing() -> list[Object]:
    """Parameters that say which version, for whom, in which form."""
    held = {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}
    instance = {"type": "string", "pattern": INSTANCE_PATTERN}
    version = {"type": "string", "pattern": "^(current|pending|previous|[1-9][0-9]{0,8})$"}
    return [
        query("instance", "The running copy that asks; also as the header `X-Instance-ID`.", instance),
        query("version", "A label or a number; needs the verb `versions`.", version),
        query(
            "format",
            "`raw`: the key alone. `env`: lines for a shell.",
            {"enum": list(FORMATS), "default": "json"},
        ),
        {**held, "description": "The ETag of the last answer: 304 without a key while nothing changed."},
    ]


def _delivered() -> Object:
    answer = in_json("The key for this caller and instance.", "DeliveredKey", ["ETag"])
    answer["content"]["text/plain"] = {"schema": {"type": "string"}}
    return {
        "200": answer,
        "304": {"description": "The caller has this version already.", "headers": headers(["ETag"])},
    }


def _key_operation() -> Object:
    return _operation("getKey", "The key for me", _delivered(), refusals=_KEY, parameters=_choosing())


def _watch_operation() -> Object:
    parameters = [
        query("etag", "The ETag that the caller has.", {"type": "string", "pattern": _ETAG_PATTERN}),
        query("timeout", "Seconds to wait.", integer(1, MAX_TIMEOUT, default=DEFAULT_TIMEOUT)),
        *_choosing(),
    ]
    return _operation(
        "watchKey", "The key for me, once it changes", _delivered(), refusals=_KEY, parameters=parameters
    )


def _request_body(schema: str) -> Object:
    return {"required": True, "content": {"application/json": {"schema": ref("schemas", schema)}}}


def _report_operation() -> Object:
    return _operation(
        "reportUsage",
        "How the versions have worked",
        {"202": in_json("Stored; also for a report that is known already.", "ReportAccepted")},
        refusals=(404, *_BODY),
        requestBody=_request_body("UsageReport"),
    )


def _mint_operation() -> Object:
    operation = _operation(
        "mintAccessToken",
        "A short-lived token for some paths",
        {"201": in_json("The token; it is not stored.", "AccessToken")},
        refusals=_BODY,
        requestBody=_request_body("AccessTokenWanted"),
    )
    return {**operation, "security": [{"consumerToken": []}, {"consumerTokenBearer": []}]}


def _revoke_operation() -> Object:
    ended = {"204": {"description": "The presented token is refused from now on.", "headers": headers([])}}
    operation = _operation("revokeSelf", "End my token", ended, refusals=_BODY)
    return {**operation, "security": [{"consumerToken": []}, {"consumerTokenBearer": []}]}


def _jwks_operation() -> Object:
    found = {"200": in_json("Public keys to check access tokens with.", "PublicKeys", limited=False)}
    operation = _operation("publicKeys", "Public keys", found)
    kept = {
        status: found
        for status, found in operation["responses"].items()
        if status not in ("401", "403", "429")
    }
    return {**operation, "security": [], "responses": kept}


# Keys that we issue --------------------------------------------------------------------------------


def _verify_operation() -> Object:
    return _operation(
        "verifyKey",
        "Is this key good",
        {"200": in_json("What Keyturn says of the key, good or bad.", "Verified")},
        refusals=_BODY,
        requestBody=_request_body("KeyToVerify"),
        description="For keys that Keyturn issues itself. The caller needs a grant with the verb `verify`.",
    )


def _forward_auth_operations() -> Object:
    """GET and POST stand for every method: OpenAPI has no word for that."""
    slug = {"type": "string"}
    told = ("X-Keyturn-Service", "X-Keyturn-Environment", "X-Keyturn-Version")
    good = {
        "description": "The key is good; no body. A gateway may copy the headers into the request.",
        "headers": headers(told, limited=False),
    }
    operation = {
        "tags": [_TAG],
        "summary": "May this request pass",
        "description": (
            "For gateways (nginx `auth_request`, Traefik ForwardAuth, Caddy `forward_auth`). Answered for any"
            " method. The key is the credential of the original request, whose headers the gateway sends."
        ),
        "security": [{"issuedKey": []}, {"issuedKeyBearer": []}],
        "parameters": [
            query("service", "Keys of this service only.", slug),
            query("environment", "Keys of this environment only.", slug),
        ],
        "responses": {
            "200": good,
            # 400 is about the gateway's own configuration, 413 about a body that it should not have sent.
            **{str(code): ref("responses", f"Delivery{code}") for code in (400, 401, 413, 429, 500, 503)},
        },
    }
    return {
        "get": {**operation, "operationId": "forwardAuth"},
        "post": {**operation, "operationId": "forwardAuthPost"},
    }
