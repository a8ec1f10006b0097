"""Requests made up from our own OpenAPI document, sent to the consumers' paths of a real server.

The seed is fixed, so a failure can be repeated; ``KEYTURN_TEST_EXAMPLES`` asks for more requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from keyvault.api import openapi
from keyvault.delivery import schema
from tests.api.conftest import Server
from tests.api.delivery.issued import FORWARD_AUTH, VERIFY, Issued, issue
from tests.api.delivery.world import World
from tests.api.test_schemathesis import CHECKED, CONFIG, PATIENCE, run

DOCUMENT = openapi.document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)
OPERATIONS = {
    result.ok().label: result.ok()
    for result in SCHEMA.get_all_operations()
    if isinstance(result, Ok) and result.ok().path in schema.paths()
}


def sender(server: Server, token: Callable[[], str]) -> Callable[[Any], None]:
    def send(case: Any) -> None:
        # One credential a request; what happens with two has its own tests. And nobody wants to wait.
        case.headers = {
            name: text
            for name, text in (case.headers or {}).items()
            if name.lower() not in ("authorization", "x-api-key") and text != "*"
        }
        address = f"http://127.0.0.1:{server.port}"
        response = case.call(base_url=address, headers={"X-API-Key": token()}, timeout=PATIENCE)
        case.validate_response(response, checks=CHECKED)

    return send


def credential(label: str, world: World, issued: Issued) -> Callable[[], str]:
    if FORWARD_AUTH in label:
        return lambda: issued.key
    if VERIFY in label:
        return lambda: issued.world.token
    if "revoke-self" in label:
        return lambda: world.new_token()[1]
    return lambda: world.token


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_gets_an_undocumented_answer(world: World, label: str) -> None:
    operation = OPERATIONS[label]
    send = sender(world.server, credential(label, world, issue(world.server)))
    known = {"service": world.service.slug, "environment": world.environment.slug}
    public = operation.definition.raw["security"] == []  # it takes nothing, so nothing can be wrong
    for mode in [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * (not public):
        run(operation.as_strategy(mode), send)
        if "{service}" in operation.path:
            run(operation.as_strategy(mode, path_parameters=known), send)


def test_every_operation_was_tried() -> None:
    described = [
        f"{method.upper()} {path}"
        for path, method, _ in openapi.operations(DOCUMENT)
        if path in schema.paths()
    ]
    assert sorted(OPERATIONS) == sorted(described)


def test_the_shape_of_both_kinds_of_verification(world: World) -> None:
    """What made-up keys never reach: good ones."""
    issued = issue(world.server)
    operation: Any = OPERATIONS[f"POST {VERIFY}"]
    token = {"X-API-Key": issued.world.token}
    for key in (issued.key, "another"):
        case = operation.Case(body={"key": key}, media_type="application/json")
        address = f"http://127.0.0.1:{world.server.port}"
        response = case.call(base_url=address, headers=token, timeout=PATIENCE)
        assert response.json()["valid"] is (key == issued.key)
        case.validate_response(response, checks=CHECKED)
