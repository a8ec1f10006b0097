"""The OpenAPI description of the consumer paths agrees with what they answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from keyvault.delivery import schema
from keyvault.delivery.routes import ANY_METHOD, METHODS, route
from tests.api.conftest import Server
from tests.api.delivery.issued import FORWARD_AUTH, VERIFY, issue
from tests.api.delivery.world import World
from tests.api.wire import Reply

pytestmark = pytest.mark.filterwarnings("error")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for part in node.values():
            yield from _references(part)
    elif isinstance(node, list):
        for part in node:
            yield from _references(part)


def _document() -> dict[str, Any]:
    return {"paths": schema.paths(), "components": schema.components()}


def test_every_reference_leads_somewhere() -> None:
    document = _document()
    for reference in set(_references(document)):
        node: Any = document
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]
        assert isinstance(node, dict)


def test_paths_and_methods_are_those_that_are_served() -> None:
    described = {}
    for path, item in schema.paths().items():
        found = route(path.replace("{service}", "a").replace("{environment}", "b"))
        assert found is not None
        methods = {name.upper() for name in item} & {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
        described[found.endpoint] = methods
    # Where any method is answered, these two stand for all.
    expected = {endpoint: {"GET", "POST"} for endpoint in ANY_METHOD}
    assert described == expected | {endpoint: set(methods) for endpoint, methods in METHODS.items()}


def test_operation_ids_are_unique() -> None:
    ids = [
        operation["operationId"]
        for item in schema.paths().values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(ids) == len(set(ids))


def _check(reply: Reply, path: str, method: str = "get") -> None:
    document = _document()
    described = document["paths"][path][method]["responses"][str(reply.status)]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    for name in described["headers"]:
        assert name.lower() in reply.headers, name
    body = {**described["content"]["application/json"]["schema"], "components": document["components"]}
    Draft202012Validator(body, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(reply.json)


def test_answers_fit_their_schemas(world: World) -> None:
    key, watch = "/v1/keys/{service}/{environment}/", "/v1/keys/{service}/{environment}/watch/"
    _check(world.get(), key)
    world.offer(40)
    _check(world.get("?version=2"), key)
    _check(world.send("GET", f"{world.path}watch/"), watch)
    _check(world.send("GET", "/v1/keys/?limit=1"), "/v1/keys/")
    _check(world.send("GET", "/v1/auth/whoami/"), "/v1/auth/whoami/")
    _check(world.send("GET", "/v1/.well-known/jwks.json"), "/v1/.well-known/jwks.json")
    _check(world.send("POST", "/v1/auth/access-token/", body=b"{}"), "/v1/auth/access-token/", "post")


def test_what_is_said_of_keys_that_we_issue(installed: Server) -> None:
    issued = issue(installed)
    _check(issued.verify(issued.key), VERIFY, "post")
    _check(issued.verify("another"), VERIFY, "post")
    _check(issued.verify(issued.key, ("X-API-Key", "wrong")), VERIFY, "post")
    for method in ("get", "post"):
        good = issued.pass_by(method=method.upper())
        described = schema.paths()[FORWARD_AUTH][method]["responses"]["200"]
        assert "content" not in described
        assert all(name.lower() in good.headers for name in described["headers"])
        _check(issued.pass_by(("X-API-Key", "wrong"), method=method.upper()), FORWARD_AUTH, method)


def test_refusals_fit_their_schemas(world: World) -> None:
    key = "/v1/keys/{service}/{environment}/"
    for reply in (
        world.get("?format=x"),
        world.server.send("GET", world.path),
        world.get("?version=pending"),
    ):
        _check(reply, key)
    refused = world.send("POST", "/v1/auth/access-token/", body=json.dumps({"paths": []}).encode())
    _check(refused, "/v1/auth/access-token/", "post")
