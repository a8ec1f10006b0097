"""Tokens that nobody has, and one that is dead, presented again and again by many callers at once."""

from __future__ import annotations

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.models import AuditEvent
from keyvault.services import consumers, replays
from tests.api.delivery.world import World, build
from tests.concurrency.statements import Statements
from tests.conftest import Tell
from tests.installations import Installation, web
from tests.integration.processes import wait_for
from tests.load import Load, Question

pytestmark = [pytest.mark.serial, pytest.mark.postgresql]
CALLERS = 64
UNKNOWN = 1500


def test_unknown_tokens_cost_few_questions_and_a_dead_one_none(
    installation: Installation, tell: Tell
) -> None:
    statements = Statements.of(installation)
    with web(installation, workers=1) as server:
        world = build(server.server)
        assert world.get().status == 200
        tokens = [mint(TokenKind.CONSUMER, "prod").expose() for _ in range(UNKNOWN)]
        statements.since()
        with Load(server.port, lambda n: asked(world, tokens[n % UNKNOWN]), CALLERS) as load:
            load.more(UNKNOWN)
        fresh = statements.since()
        consumers.revoke_token(SYSTEM, world.token_row, now=clock.now())
        assert world.get().code == "invalid_api_key"
        wait_for(lambda: told(world), "the use of the dead token is recorded")
        statements.since()
        with Load(server.port, lambda n: asked(world, world.token), CALLERS) as again:
            again.more(UNKNOWN)
        dead = statements.since()
    assert set(load.statuses()) == set(again.statuses()) == {"401 invalid_api_key"}
    assert told(world) == 1
    tell(
        "tokens that do not count",
        {
            "unknown": len(load.answers),
            "looks for them": fresh.looks,
            "a dead one": len(again.answers),
            "looks for it": dead.looks,
        },
    )
    assert fresh.looks <= len(load.answers) / 8
    # What follows the change log goes on; the token itself is known to be dead.
    assert dead.looks <= 20


def asked(world: World, token: str) -> Question:
    return Question(world.service.slug, world.path, token)


def told(world: World) -> int:
    return AuditEvent.objects.filter(name=replays.EVENT, subject=str(world.token_row.id)).count()
