"""Every forged access token gets the same 401 from the running server, and the true one beside it works."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.integrity import sign
from keyvault.keystore import installation_id, keys
from keyvault.models import Environment
from keyvault.services import consumers
from tests.api.delivery.world import World
from tests.conftest import Tell
from tests.forging import Forge


@pytest.fixture
def forge(world: World) -> Forge:
    issued = int(clock.now().timestamp())
    audience = f"keyturn:{installation_id()}"
    return Forge(keys().service, "http://127.0.0.1:8000", audience, str(world.token_row.id), issued)


def use(world: World, token: str) -> str:
    reply = world.server.send("GET", world.path, ("Authorization", f"AccessToken {token}"))
    assert reply.status in (200, 401), reply.body
    return "200" if reply.status == 200 else reply.code


def test_nothing_that_was_forged_is_let_in(world: World, forge: Forge, tell: Tell) -> None:
    forged = {
        name: token
        for name, token in forge.all().items()
        # No header can carry these: the line would end, or be longer than the server reads.
        if "\n" not in token
    }
    assert use(world, forge.sound()) == "200"
    wrong = {name: code for name, token in forged.items() if (code := use(world, token)) != EXPECTED}
    tell("forged access tokens", {"tokens": len(forged), "taken": len(wrong)})
    assert wrong == {}
    assert len(forged) >= 100
    assert use(world, forge.sound()) == "200"


EXPECTED = "invalid_access_token"


def test_a_good_signature_is_worth_what_its_parent_is(world: World, forge: Forge) -> None:
    assert use(world, forge.sound()) == "200"
    row = world.token_row
    row.expires_at = clock.now() - timedelta(seconds=1)
    sign(row)
    row.save()
    assert use(world, forge.sound()) == EXPECTED
    row.expires_at, row.environment = None, Environment.objects.get(slug="dev")
    sign(row)
    row.save()
    # The environment of the row counts; one that is moved takes its access tokens with it.
    assert use(world, forge.sound()) == EXPECTED
    row.environment = world.environment
    sign(row)
    row.save()
    assert use(world, forge.sound()) == "200"
    consumers.revoke_token(SYSTEM, row, now=clock.now())
    assert use(world, forge.sound()) == EXPECTED
