"""Who gets which answer from delivery: every endpoint and method, every kind of caller, over the wire.

The answers that people reviewed stand in ``access.csv``: the status, and the code where it is refused.
"""

from __future__ import annotations

import csv
import itertools
import json
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.delivery.routes import METHODS, Endpoint
from keyvault.domain import Role
from keyvault.integrity import sign
from keyvault.models import Environment, User
from keyvault.services import consumers, people
from tests.api.conftest import Server
from tests.api.delivery.issued import issue
from tests.api.delivery.test_reports import report
from tests.api.delivery.world import build

REVIEWED = Path(__file__).with_name("access.csv")
CALLERS = (
    "nobody",
    "invented",
    "revoked",
    "expired",
    "user",
    "stranger",
    "elsewhere",
    "reads",
    "reports",
    "verifies",
    "every verb",
    "access token",
    "issued key",
    "absent",
)
VERBS: Final = {"reads": ["read"], "reports": ["report"], "verifies": ["verify"]}
HOUR: Final = timedelta(hours=1)
_sequence = itertools.count(1)
TARGETS = {
    Endpoint.LIST: "/v1/keys/",
    Endpoint.KEY: "{key}?instance=web-1",
    Endpoint.WATCH: "{key}watch/?instance=web-1&timeout=1",
    Endpoint.REPORTS: "{key}reports/",
    Endpoint.ACCESS_TOKEN: "/v1/auth/access-token/",
    Endpoint.WHOAMI: "/v1/auth/whoami/",
    Endpoint.REVOKE_SELF: "/v1/auth/revoke-self/",
    Endpoint.JWKS: "/v1/.well-known/jwks.json",
    Endpoint.VERIFY: "/v1/verify/",
    Endpoint.FORWARD_AUTH: "/v1/forward-auth/",
}


class House:
    """A key of a provider and one that we issue, and a credential for every caller, fresh each time."""

    def __init__(self, installed: Server) -> None:
        self.server = installed
        self.world = build(installed, verbs=["read", "report"])
        self.stranger = build(installed, verbs=["read", "report", "verify"])
        self.issued = issue(installed)
        assert self.world.get("?instance=web-1").status == 200  # so that there is something to report

    def credential(self, caller: str) -> str:
        """What this caller shows; each call makes a new one, for some requests end it."""
        now, world = clock.now(), self.world
        if caller in ("nobody", "invented"):
            return mint(TokenKind.CONSUMER, "prod").expose() if caller == "invented" else ""
        if caller == "user":
            user = User.objects.create(username=f"lead-{uuid.uuid4().hex[:8]}")
            people.set_member(SYSTEM, world.service.team, username=user.username, role=Role.LEAD, now=now)
            return people.create_user_token(user, expires_at=now + HOUR, now=now)[1].expose()
        if caller == "issued key":
            return self.issued.key
        if caller == "stranger":
            return self.stranger.new_token()[1]
        if caller == "elsewhere":
            dev = Environment.objects.get(slug="dev")
            made = consumers.create_token(SYSTEM, world.consumer, dev, expires_at=now + HOUR, now=now)
            return made[1].expose()
        verbs = VERBS.get(caller, ["read", "versions", "report", "verify"])
        world.grant(verbs)
        ours = self.issued.world
        theirs = ["verify"] if "verify" in verbs else ["report"]
        consumers.set_grant(SYSTEM, world.consumer, ours.service, ours.environment, verbs=theirs, now=now)
        row, token = world.new_token()
        if caller == "revoked":
            consumers.revoke_token(SYSTEM, row, now=now)
        if caller == "expired":
            row.expires_at = now - HOUR
            sign(row)
            row.save()
        if caller == "access token":
            return replace(world, token=token).access_token(world.path)
        return token

    def ask(self, endpoint: Endpoint, method: str, caller: str) -> str:
        """The status, and the code of a refusal."""
        token = self.credential(caller)
        key = "/v1/keys/no-such-service/prod/" if caller == "absent" else self.world.path
        header = (
            ("Authorization", f"AccessToken {token}") if caller == "access token" else ("X-API-Key", token)
        )
        headers = [header] if token else []
        target = TARGETS[endpoint].format(key=key)
        reply = self.server.send(method, target, *headers, body=self.body(endpoint))
        return f"{reply.status} {reply.code}" if reply.status >= 400 and reply.body else str(reply.status)

    def body(self, endpoint: Endpoint) -> bytes | None:
        sent: dict[Endpoint, object] = {
            Endpoint.REPORTS: report(self.world, sequence=next(_sequence)),
            Endpoint.ACCESS_TOKEN: {"paths": [self.world.path], "expires_in": 60},
            Endpoint.VERIFY: {"key": self.issued.key},
        }
        return json.dumps(sent[endpoint]).encode() if endpoint in sent else None


@pytest.fixture
def house(installed: Server) -> House:
    return House(installed)


def reviewed() -> dict[tuple[str, str], dict[str, str]]:
    with REVIEWED.open(encoding="utf-8", newline="") as file:
        return {(line["endpoint"], line["method"]): line for line in csv.DictReader(file)}


def asked() -> list[tuple[Endpoint, str]]:
    """Every endpoint with its methods, and one method that it does not take."""
    methods = {endpoint: (*METHODS.get(endpoint, ("GET", "POST")), "DELETE") for endpoint in Endpoint}
    return [(endpoint, method) for endpoint in Endpoint for method in methods[endpoint]]


def test_every_endpoint_and_method_is_in_the_file() -> None:
    assert list(reviewed()) == [(str(endpoint), method) for endpoint, method in asked()]


@pytest.mark.parametrize(("endpoint", "method"), asked())
def test_everybody_gets_the_answer_that_was_reviewed(house: House, endpoint: Endpoint, method: str) -> None:
    now = {caller: house.ask(endpoint, method, caller) for caller in CALLERS}
    expected = reviewed().get((str(endpoint), method), {})
    assert now == {caller: expected.get(caller) for caller in CALLERS}
