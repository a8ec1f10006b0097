"""One look at many rotations: it writes what looking at each alone would write, at the cost of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from rotation import engine
from rotation.facts import OperationState, Stage
from rotation.glance import WRITTEN, glance
from rotation.models import Operation, Rotation
from tests.stories.world import World


def standing(w: World) -> dict[str, Any]:
    """What the row says of waiting and judging."""
    rows = Rotation.objects.filter(key=w.key_id).values(*WRITTEN, "revision", "stage", "weight")
    return dict(rows.get())


def test_it_writes_what_advance_would_write(world: Callable[..., World]) -> None:
    w = world()
    rotation_id = w.start().id
    w.work()
    alike = 0
    while w.rotation.stage != Stage.SUCCEEDED:
        w.now += timedelta(seconds=10)
        w.traffic()
        with transaction.atomic():
            left = glance([rotation_id], w.now)
            glanced = standing(w)
            transaction.set_rollback(True)
        engine.advance(rotation_id, w.now, ring=w.rung.append)
        if not left:
            assert glanced == standing(w)
            alike += 1
        due = Operation.objects.filter(state=OperationState.PENDING, retry_at__lte=w.now)
        w.rung.extend(due.values_list("id", flat=True))
        w.work()
        assert w.rotation.attention == ""
    assert alike > 50
    assert w.failures == {}


def waiting(world: Callable[..., World], count: int) -> list[World]:
    """Rotations in the middle of a shift, whose next look is due and finds nothing to do."""
    worlds = [world() for _ in range(count)]
    for w in worlds:
        w.start()
        w.run_to("shift")
        w.tick(1)
        w.now += timedelta(seconds=10)
        w.traffic()
    return worlds


@pytest.mark.parametrize("stage", ["shift", "monitor"])
def test_many_cost_as_many_queries_as_one(world: Callable[..., World], stage: str) -> None:
    worlds = waiting(world, 4)
    ids = [w.rotation.id for w in worlds]
    if stage == "monitor":
        for w in worlds:
            w.run_to("monitor")
            w.tick(1)
            w.now += timedelta(seconds=10)
    now = max(w.now for w in worlds)
    costs = []
    for some in (ids[:1], ids[1:]):
        with CaptureQueriesContext(
            connection,
        ) as asked:
            glance(some, now)
        costs.append(len(asked) - len(some))  # one update each
    assert costs[0] == costs[1]


def test_one_that_cannot_be_looked_at_holds_up_nobody(world: Callable[..., World]) -> None:
    good, bad = waiting(world, 2)
    Rotation.objects.filter(pk=bad.rotation.pk).update(policy={"steps": "none"})
    now = max(good.now, bad.now)
    Rotation.objects.update(check_at=now)
    good.now = now
    good.tick(0, traffic=False)
    assert good.rotation.waiting_code == "hold"
    assert not Rotation.objects.filter(pk=good.rotation.pk, check_at__lte=now).exists()
    # It stands back for a minute, and is tried again then.
    postponed = Rotation.objects.values_list("check_at", flat=True).get(pk=bad.rotation.pk)
    assert postponed == now + timedelta(minutes=1)
