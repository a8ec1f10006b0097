"""The OpenAPI document, and a page that shows it. Both are public: they hold nothing but descriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keyvault.api import openapi
from keyvault.api.base import read_query


class SchemaView(APIView):
    authentication_classes = []
    permission_classes = [AllowAny]
    parser_classes = []
    renderer_classes = [JSONRenderer]
    http_method_names = ["get", "head"]

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        read_query(request.query_params, None)
        return Response(openapi.document())


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """Every operation with its parameters, body and answers, rendered here: no script, no inline style."""
    document = openapi.document()
    return render(request, "api/docs.html", {"info": document["info"], "groups": _groups(document)})


def _groups(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, method, operation in openapi.operations(document):
        if method == "head":
            continue  # the same as GET, without the body
        tag = (operation.get("tags") or ["other"])[0]
        groups.setdefault(tag, []).append(
            {
                "id": operation.get("operationId") or f"{method}-{path}",
                "method": method.upper(),
                "path": path,
                "summary": operation.get("summary", ""),
                "description": operation.get("description", ""),
                "parameters": [_parameter(document, item) for item in operation.get("parameters", [])],
                "body": _body(document, operation.get("requestBody")),
                "answers": [_answer(document, *item) for item in sorted(operation["responses"].items())],
            }
        )
    return dict(sorted(groups.items()))


def _resolve(document: Mapping[str, Any], item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow ``#/components/…`` references."""
    while "$ref" in item:
        found: Any = document
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        item = found
    return item


def _parameter(document: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    known = _resolve(document, item)
    return {
        "name": known["name"],
        "place": known["in"],
        "required": known.get("required", False),
        "type": _type(document, known.get("schema", {})),
        "description": known.get("description", ""),
    }


def _body(document: Mapping[str, Any], body: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The fields of a JSON body."""
    if not body:
        return []
    content = _resolve(document, body).get("content", {}).get("application/json", {})
    schema = _resolve(document, content.get("schema", {}))
    return [
        {
            "name": name,
            "required": name in schema.get("required", []),
            "type": _type(document, field),
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _type(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A type in a few words: ``string``, ``list of Step``, ``a | b``."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        known = _resolve(document, schema)
        return _type(document, known) if "enum" in known else name
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for word in ("oneOf", "anyOf", "allOf"):
        if word in schema:
            return " or ".join(_type(document, inner) for inner in schema[word])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(document, schema.get('items', {}))}"
    names = kind if isinstance(kind, list) else [kind]
    return " or ".join(f"{name} ({schema['format']})" if "format" in schema else name for name in names)


def _answer(document: Mapping[str, Any], status: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    known = _resolve(document, answer)
    content = known.get("content", {})
    first: Mapping[str, Any] = next(iter(content.values()), {})
    return {
        "status": status,
        "good": status < "400",
        "description": known.get("description", ""),
        "type": _type(document, first["schema"]) if "schema" in first and status < "400" else "",
    }
