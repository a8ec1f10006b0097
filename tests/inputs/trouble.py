"""B40 to B42 and B62: what is broken, away or used up. 503 or 429, never 500."""

from __future__ import annotations

import json
from collections.abc import Iterator

from keyvault import clock
from keyvault.models import Grant, Key
from tests.api.delivery.outage import allow_deliveries, forbid_deliveries
from tests.api.delivery.world import build
from tests.inputs.table import Table, row


@row("B40", "a row that somebody changed")
def changed_rows(t: Table) -> Iterator[None]:
    worlds = [build(t.server) for _ in range(4)]
    key, token, grant, version = worlds
    Key.objects.filter(pk=key.key_id).update(canaries=["somebody"])
    type(token.token_row).objects.filter(pk=token.token_row.pk).update(rate_per_minute=99)
    Grant.objects.filter(consumer=grant.consumer).update(verbs=["read", "versions", "verify"])
    dead = version.version(1)
    type(dead).objects.filter(pk=dead.pk).update(state="revoked", revoked_at=clock.now())
    yield
    for world in worlds:
        t.refused(world.get(), 503, "integrity_error", sent=world.secret)
        assert world.deliveries() == []


@row("B41", "the key-encryption keys are away")
def no_keks(t: Table) -> None:
    path = t.server.keyring
    whole = path.read_text()
    document = json.loads(whole)
    del document["environments"]["prod"]
    try:
        path.write_text(json.dumps(document))
        reply = t.consumer("GET", t.path)
    finally:
        path.write_text(whole)
    t.refused(reply, 503, "key_service_unavailable", sent=t.world.secret)


@row("B42", "the access cannot be recorded")
def no_record(t: Table) -> None:
    forbid_deliveries()
    try:
        replies = [t.consumer("GET", t.path), t.consumer("GET", t.path, ("If-None-Match", "*"))]
    finally:
        allow_deliveries()
    for reply in replies:
        t.refused(reply, 503, "audit_unavailable", sent=t.world.secret)


@row("B62", "more than is allowed in a minute")
def too_many(t: Table) -> Iterator[None]:
    world = build(t.server, rate=3)
    yield
    # In two minutes at most six of them pass.
    replies = [world.get("?version=7") for _ in range(9)]
    limited = [reply for reply in replies if reply.status == 429]
    assert limited
    for reply in limited:
        t.refused(reply, 429, "rate_limited", sent=world.token)
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert (reply.headers["ratelimit-limit"], reply.headers["ratelimit-remaining"]) == ("3", "0")
        assert int(reply.headers["ratelimit-reset"]) <= 60
