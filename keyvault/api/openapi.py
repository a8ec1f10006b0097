"""The OpenAPI 3.1 document: what the views say of themselves, the refusals, and the consumers' paths."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator

from keyvault.api.base import REFUSALS
from keyvault.api.converters import IN_OPENAPI
from keyvault.errors import CODES

Document = dict[str, Any]

METHODS: Final = ("get", "head", "post", "patch", "put", "delete")
_RETRIED: Final = (429, 503)


class UserTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Either header will do; one of them, once."""

    target_class = "keyvault.api.authentication.UserTokenAuthentication"
    name = ["userToken", "userTokenBearer"]

    def get_security_definition(self, auto_schema: Any) -> Any:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A user token (`ktu_…`)."},
            {"type": "http", "scheme": "bearer", "description": "A user token (`ktu_…`)."},
        ]

    def get_security_requirement(self, auto_schema: Any) -> Any:
        return [{"userToken": []}, {"userTokenBearer": []}]


_lock = threading.Lock()
_document: Document | None = None


def document() -> Document:
    """The document, built once per process. Callers must not change it."""
    global _document
    with _lock:
        if _document is None:
            generator = SchemaGenerator()  # type: ignore[no-untyped-call]
            _document = cast(Document, generator.get_schema(public=True))  # type: ignore[no-untyped-call]
        return _document


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Document]]:
    """Every operation as (path, method, operation)."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


# Hooks of drf-spectacular, in this order -----------------------------------------------------------


def refuse_strange_fields(result: Document, **_: Any) -> Document:
    """Requests hold the named fields and no others; what the strict fields do, said in the document."""
    _drop(result, "x-spec-enum-id")  # a note of the generator to itself
    for name, schema in result["components"]["schemas"].items():
        if name.endswith("Request") and schema.get("type") == "object":
            schema["additionalProperties"] = False
    return result


def type_path_parameters(result: Document, **_: Any) -> Document:
    """Slugs have a pattern; anything else in their place is 404."""
    for path, _method, operation in operations(result):
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path" and parameter["schema"].get("format") != "uuid":
                kind = "username" if parameter["name"] == "user" else "name"
                parameter["schema"] = dict(IN_OPENAPI[kind])
        if not path.endswith("/"):
            raise ValueError(f"{path} has no trailing slash")
    return result


def add_refusals(result: Document, **_: Any) -> Document:
    """Give each operation the errors that it may answer, as shared components."""
    components = result["components"]
    components["schemas"]["Error"] = _error_schema()
    components["headers"] = _headers()
    used: set[int] = set()
    for path, method, operation in operations(result):
        statuses = _statuses(path, method, operation)
        used |= statuses
        for answer in operation["responses"].values():
            answer.setdefault("headers", {}).update(_header_refs(operation))
        for status in sorted(statuses):
            operation["responses"].setdefault(str(status), {"$ref": f"#/components/responses/Error{status}"})
    components["responses"] = {f"Error{status}": _error_response(status) for status in sorted(used)}
    return result


def _drop(item: Any, name: str) -> None:
    if isinstance(item, dict):
        item.pop(name, None)
    for inner in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        _drop(inner, name)


def _statuses(path: str, method: str, operation: Document) -> set[int]:
    if not operation.get("security"):
        return {406}
    statuses = {400, 401, 403, 406, 429, 503, *operation.pop(REFUSALS, ())}
    if "{" in path:
        statuses.add(404)
    if "requestBody" in operation:
        statuses |= {409, 413, 415}
    if method == "delete":
        statuses.add(409)
    if method == "post":
        statuses |= {409, 422}
    if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", [])):
        statuses.add(412)
    return statuses


def _error_response(status: int) -> Document:
    codes = [code for code, (of_code, _) in CODES.items() if of_code == status]
    names = {"X-Request-ID": "X-Request-ID"}
    if status == HTTPStatus.UNAUTHORIZED:
        names["WWW-Authenticate"] = "WWW-Authenticate"
    if status in _RETRIED:
        names["Retry-After"] = "Retry-After"
    return {
        "description": f"{HTTPStatus(status).phrase}. Codes: {', '.join(f'`{code}`' for code in codes)}.",
        "headers": {name: {"$ref": f"#/components/headers/{component}"} for name, component in names.items()},
        "content": {
            "application/json": {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Error"},
                        {
                            "type": "object",
                            "properties": {
                                "error": {
                                    "type": "object",
                                    "properties": {"code": {"enum": codes}, "status": {"const": status}},
                                }
                            },
                        },
                    ]
                }
            }
        },
    }


def _error_schema() -> Document:
    return {
        "type": "object",
        "description": "Every error has this body.",
        "required": ["error"],
        "additionalProperties": False,
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "status", "request_id"],
                "properties": {
                    "code": {"type": "string", "description": "Stable; for programs."},
                    "message": {"type": "string", "description": "For people. Never holds what was sent."},
                    "status": {"type": "integer"},
                    "request_id": {"type": "string"},
                    "fields": {
                        "type": "object",
                        "description": "What is wrong with which field.",
                        "additionalProperties": {"type": "array", "items": {"type": "string"}},
                    },
                },
            }
        },
    }


def _headers() -> Document:
    def header(description: str, kind: str = "string") -> Document:
        return {"description": description, "required": True, "schema": {"type": kind}}

    return {
        "X-Request-ID": header("The id of this request in our log; yours, where you sent a well-formed one."),
        "WWW-Authenticate": header("How to authenticate."),
        "Retry-After": header("Seconds to wait.", "integer"),
        "RateLimit-Limit": header("Requests per minute that this token may make.", "integer"),
        "RateLimit-Remaining": header("Requests left in this minute.", "integer"),
        "RateLimit-Reset": header("Seconds until the minute is over.", "integer"),
    }


def _header_refs(operation: Document) -> Document:
    names = ["X-Request-ID"]
    if operation.get("security"):
        names += ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
