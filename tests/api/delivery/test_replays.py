"""A revoked token that goes on knocking"""

from __future__ import annotations

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.models import AuditEvent
from keyvault.services import consumers, replays
from tests.api.delivery.world import World
from tests.integration.processes import wait_for


def test_it_is_recorded_once_and_answered_like_one_that_never_was(world: World) -> None:
    consumers.revoke_token(SYSTEM, world.token_row, now=clock.now())
    never = mint(TokenKind.CONSUMER, "prod").expose()
    mark = ("X-Request-ID", "knocking-again")
    dead = [world.get("", mark) for _ in range(10)]
    unknown = world.server.send("GET", world.path, ("X-API-Key", never), mark)
    assert {(one.status, one.body) for one in dead} == {(unknown.status, unknown.body)}
    assert {tuple(one.headers) for one in dead} == {tuple(unknown.headers)}
    events = AuditEvent.objects.filter(name=replays.EVENT, subject=str(world.token_row.id))
    wait_for(events.exists, "the use of the dead token is recorded")
    event = events.get()
    assert (event.details["why"], event.details["address"]) == ("revoked", "127.0.0.1")
    assert world.token not in str(event.__dict__)
