"""The whole OpenAPI document against a running server, in every phase that the generator has.

Where ``test_schemathesis.py`` draws a few requests for each operation, this covers the edges of every
parameter, asks with methods that are not there and without a credential, and plays sequences: what was made
is read, changed and taken away, and must be gone. Each operation is asked with names that exist, and with
made-up ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.api import openapi
from keyvault.crypto.secret import Secret
from keyvault.domain import OrganisationRole, Role
from keyvault.services import people
from rotation.services import channels
from tests.api.conftest import Server
from tests.api.delivery.issued import FORWARD_AUTH, VERIFY, Issued, issue
from tests.api.delivery.world import World, build
from tests.api.test_schemathesis import PATIENCE, REFUSALS, SEED
from tests.conftest import Tell
from tests.inputs.table import Table, new_person
from tests.scale import LONG, scaled

pytestmark = pytest.mark.long

EXAMPLES = scaled("WHOLE_EXAMPLES", 1, 200)
PHASES = ("examples", "coverage", "fuzzing", "stateful")
# The edges of every parameter are thousands of requests: in a normal run those of some operations. Drawing at
# random is what test_schemathesis.py does there.
RUNS = [(phase, known) for phase in PHASES for known in (True, False)] if LONG else [("coverage", True)]
ALL = [f"{method.upper()} {path}" for path, method, _ in openapi.operations(openapi.document())]
LEFT_OUT = [] if LONG else [label for number, label in enumerate(ALL) if number % 16]
# A document cannot say which names exist or which address is public, so that what fits it may be refused.
NOT_MEANT = ("positive_data_acceptance",)
# Everybody's, and nobody's.
PUBLIC = frozenset({"/v1/.well-known/jwks.json", "/v1/schema/"})


@dataclass
class Callers:
    """Who asks: each operation gets a credential that it takes."""

    world: World
    issued: Issued
    admin: str = field(default_factory=new_person)

    def credential(self, label: str, security: list[dict[str, Any]]) -> str:
        if FORWARD_AUTH in label:
            return self.issued.key
        if VERIFY in label:
            return self.issued.world.token
        if "revoke-self" in label:
            return self._used_up()
        return self.admin if {"userToken": []} in security else self.world.token

    def _used_up(self) -> str:
        """A token that may end itself. By HTTP: the generator asks on threads of its own."""
        body = {"environment": self.world.environment.slug, "rate_limit": "1000000/min"}
        path = f"/v1/consumers/{self.world.consumer.slug}/tokens/"
        return str(Table(self.world, self.admin).person("POST", path, body).json["token"])


def names(callers: Callers) -> dict[str, str]:
    """One thing of every kind that paths can name."""
    world, now = callers.world, clock.now()
    table = Table(world, callers.admin)
    key, rotation = table.open_rotation()
    team = world.service.team
    member = people.create_person(
        f"member-{team.slug}", "a-long-pass-phrase-7391", role=OrganisationRole.NONE
    )
    people.set_member(SYSTEM, team, username=member.username, role=Role.VIEWER, now=now)
    made = channels.create_channel(
        SYSTEM,
        slug=f"room-{team.slug}"[:60],
        team=team,
        kind="chat",
        url=Secret("https://hooks.example.org/x"),
        fields={},
        now=now,
    )
    wanted = {"consumer": world.consumer.slug, "service": key.split("/")[3], "environment": "dev"}
    grant = table.person("POST", "/v1/grants/", {**wanted, "verbs": ["read"]}).json["id"]
    return {
        "team": team.slug,
        "user": member.username,
        "environment": world.environment.slug,
        "service": world.service.slug,
        "provider": "removit",
        "policy": "fast",
        "consumer": world.consumer.slug,
        "channel": made.channel.slug,
        "token": str(world.new_token()[0].id),
        "grant": grant,
        "rotation": rotation.split("/")[3],
    }


def config(server: Server, parameters: dict[str, str]) -> schemathesis.Config:
    refusals = {"expected-statuses": REFUSALS}
    return schemathesis.Config.from_dict(
        {
            "base-url": f"http://127.0.0.1:{server.port}",
            "seed": SEED,
            "request-timeout": PATIENCE,
            # Nothing is kept between runs.
            "cache": {"enabled": False},
            "parameters": {f"path.{name}": text for name, text in parameters.items()},
            "generation": {"max-examples": EXAMPLES, "database": "none", "no-shrink": True},
            "checks": {
                "negative_data_rejection": refusals,
                "missing_required_header": {"expected-statuses": ["400", "401", "403", "404", "406", "415"]},
                **{name: {"enabled": False} for name in NOT_MEANT},
            },
            "phases": {"stateful": {"generation": {"max-examples": max(2, EXAMPLES // 4)}}},
            "operations": [
                # Nobody wants to wait for a change.
                {"include-path-regex": "/watch/$", "parameters": {"query.timeout": 1}},
                *({"include-name": label, "enabled": False} for label in LEFT_OUT),
            ],
        }
    )


def run(server: Server, callers: Callers, parameters: dict[str, str], phase: str) -> Counter[str]:
    """Ask everything; returns what was counted. Fails with what was found, one line for each."""
    schema: Any = schemathesis.openapi.from_dict(openapi.document(), config=config(server, parameters))

    class Auth:
        def get(self, case: Any, ctx: Any) -> str:
            return callers.credential(case.operation.label, case.operation.definition.raw.get("security", []))

        def set(self, case: Any, data: str, ctx: Any) -> None:
            if case.operation.path not in PUBLIC:
                case.headers = {**(case.headers or {}), "X-API-Key": data}

    schema.auth()(Auth)
    for name in PHASES:
        schema.config.phases.get_by_name(name=name).enabled = name == phase
    counted: Counter[str] = Counter()
    found: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            counted["scenarios"] += 1
            for interaction in event.recorder.interactions.values():
                counted["requests"] += 1
                counted[
                    f"{interaction.response.status_code // 100}xx" if interaction.response else "lost"
                ] += 1
            for checks in event.recorder.checks.values():
                counted["checks"] += len(checks)
                found += [
                    f"{event.label}: {check.name}: {check.failure_info.failure}"
                    for check in checks
                    if check.failure_info is not None
                ]
        elif isinstance(event, events.NonFatalError):
            found.append(f"{event.label}: {event.value}")
        elif isinstance(event, events.FatalError):
            found.append(str(event.exception))
    assert not found, "\n\n".join(sorted(set(found)))
    return counted


@pytest.mark.parametrize(("phase", "known"), RUNS)
def test_everything_is_answered_as_the_document_says(
    installed: Server, tell: Tell, phase: str, *, known: bool
) -> None:
    callers = Callers(build(installed), issue(installed))
    counted = run(installed, callers, names(callers) if known else {}, phase)
    assert counted["requests"] > 0
    assert counted["checks"] >= counted["requests"]
    assert counted["5xx"] + counted["lost"] == 0
    tell(f"made up from the document, {phase}, {'known' if known else 'made-up'} names", counted)
