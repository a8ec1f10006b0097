"""Pieces of an OpenAPI document, as both halves of the description need them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

Object = dict[str, Any]

INSTANCE_PATTERN: Final = "^[A-Za-z0-9._:-]{1,128}$"


def string(description: str = "", **more: Any) -> Object:
    return {"type": "string", **({"description": description} if description else {}), **more}


def integer(low: int, high: int, **more: Any) -> Object:
    return {"type": "integer", "minimum": low, "maximum": high, **more}


def closed(properties: Object, *, required: Iterable[str] | None = None, description: str = "") -> Object:
    """An object with these properties and no others; all of them are required unless told otherwise."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties) if required is None else list(required),
        "properties": properties,
        **({"description": description} if description else {}),
    }


def ref(section: str, name: str) -> Object:
    return {"$ref": f"#/components/{section}/{name}"}


def time(description: str, *, nullable: bool = False) -> Object:
    return {
        "type": ["string", "null"] if nullable else "string",
        "format": "date-time",
        "description": description,
    }


def query(name: str, description: str, schema: Object) -> Object:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def in_json(description: str, schema: str, names: Iterable[str] = (), *, limited: bool = True) -> Object:
    """An answer with this schema as its JSON body; ``names`` are headers beside the usual ones."""
    return {
        "description": description,
        "headers": headers(names, limited=limited),
        "content": {"application/json": {"schema": ref("schemas", schema)}},
    }


def headers(names: Iterable[str] = (), *, limited: bool = True) -> Object:
    """Headers of an answer. ``limited``: the caller's requests are counted."""
    counted = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset") if limited else ()
    return {name: ref("headers", name) for name in ("X-Request-ID", *counted, *names)}
