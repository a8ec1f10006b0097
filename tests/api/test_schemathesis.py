"""Requests made up from our own OpenAPI document, sent through Django's handler in this process.

The management part only: the consumers' paths are served by another handler and have their own tests. The
seed is fixed, so a failure can be repeated; ``KEYTURN_TEST_EXAMPLES`` asks for more requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from keyvault.api import openapi
from keyvault.crypto.secret import Secret
from keyvault.models import Grant
from keyvault.services import consumers
from rotation.services import channels
from tests.api.management.world import World, start, work

# PostgreSQL is the stricter of the two: what it refuses would be an error of ours.
pytestmark = pytest.mark.postgresql

EXAMPLES = int(os.environ.get("KEYTURN_TEST_EXAMPLES", "4"))
SEED = 20_260_101
PATIENCE = 120  # seconds, with an answer of a server; that of the generator is too short for a busy machine
load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    ]
)

# A request against the document must not succeed; 413 is missing in the checker's own list.
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422"]
CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}
)
SCHEMA = schemathesis.openapi.from_dict(openapi.document(), config=CONFIG)
SCHEMA.app = get_wsgi_application()
OPERATIONS = {
    result.ok().label: result.ok()
    for result in SCHEMA.get_all_operations()
    if isinstance(result, Ok) and {"userToken": []} in result.ok().definition.raw.get("security", [])
}

Names = dict[str, str]


@contextmanager
def one_connection() -> Iterator[None]:
    """Between requests Django would close the connection, and with it the transaction of the test."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)


@pytest.fixture
def world(db: None) -> World:
    return World()


@pytest.fixture
def names(world: World) -> Names:
    """One thing of every kind that paths can name."""
    key = world.key()
    rotation = start(world, key)
    work()
    consumer = world.consumer()
    token, _ = consumers.create_token(
        world.lead.actor, consumer, key.environment, expires_at=None, now=world.now
    )
    grant: Grant = consumers.set_grant(
        world.lead.actor, consumer, key.service, key.environment, verbs=["read"], now=world.now
    )
    channel = channels.create_channel(
        world.lead.actor,
        slug="room",
        team=world.imaging,
        kind="chat",
        url=Secret("https://hooks.example.org/x"),
        fields={},
        now=world.now,
    ).channel
    return {
        "team": "imaging",
        "user": "viewer",
        "environment": "dev",
        "service": key.service.slug,
        "provider": "removit",
        "policy": "fast",
        "consumer": consumer.slug,
        "channel": channel.slug,
        "token": str(token.id),
        "grant": str(grant.id),
        "rotation": rotation.split("/")[3],
    }


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_gets_an_undocumented_answer(
    world: World, names: Names, settings: Any, label: str
) -> None:
    settings.KEYTURN_API_RATE = "1000000/min"
    operation = OPERATIONS[label]
    known = {name: names[name] for name in names if f"{{{name}}}" in operation.path}
    send = send_as(world.admin.token)
    with one_connection():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            run(operation.as_strategy(mode), send)
            if known:
                run(operation.as_strategy(mode, path_parameters=known), send)


def send_as(token: str) -> Callable[[Any], None]:
    def send(case: Any) -> None:
        # One credential a request; what happens with two has its own tests.
        case.headers = {
            name: text
            for name, text in (case.headers or {}).items()
            if name.lower() not in ("authorization", "x-api-key")
        }
        response = case.call(headers={"X-API-Key": token})
        case.validate_response(response, checks=CHECKED)

    return send


def run(strategy: Any, send: Callable[[Any], None]) -> None:
    @seed(SEED)
    @hypothesis_settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def requests(case: Any) -> None:
        send(case)

    requests()


def test_every_management_operation_was_tried() -> None:
    private = [
        f"{method.upper()} {path}"
        for path, method, operation in openapi.operations(openapi.document())
        if {"userToken": []} in operation.get("security", [])
    ]
    assert sorted(OPERATIONS) == sorted(private)
