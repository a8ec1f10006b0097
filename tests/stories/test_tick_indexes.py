"""A tick asks for what is due, whatever else there is: no table that grows is read from end to end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from keyvault.models import AuditEvent, Delivery, Key, KeyVersion, UsageLine
from rotation.models import KeySchedule, Operation, Rotation, RotationEvent
from rotation.services import notifying, ticking
from tests.integration.explained import all_read_whole, prefer_indexes
from tests.stories.world import World

# On tables as small as a test's, PostgreSQL joins by walking whole indexes; SQLite asks the index at once.
pytestmark = pytest.mark.once

LARGE = frozenset(
    model._meta.db_table
    for model in (
        AuditEvent,
        Delivery,
        Key,
        KeySchedule,
        KeyVersion,
        Operation,
        Rotation,
        RotationEvent,
        UsageLine,
    )
)


def test_a_tick_reads_no_large_table_whole(world: Callable[..., World]) -> None:
    """One rotation only waits, one has a step to make, one has an operation whose worker died."""
    worlds = [world() for _ in range(3)]
    for w in worlds:
        w.start()
        w.run_to("shift")
    waiting, stepping, dead = worlds
    dead.run_to("monitor")
    last = dead.rotation.operations.latest("created_at")
    Operation.objects.filter(pk=last.pk).update(state="running", lease_until=dead.now, fence=9)
    now = max(w.now for w in worlds) + timedelta(minutes=2)
    KeySchedule.objects.update(next_rotation_at=now)
    prefer_indexes()
    assert all_read_whole(lambda: ticking.tick(now, ring=lambda _: None), LARGE) == {}
    assert waiting.rotation.last_check_at == stepping.rotation.last_check_at == now


def test_a_look_for_notices_reads_no_large_table_whole(world: Callable[..., World]) -> None:
    w = world()
    w.start()
    w.run_to("shift")
    prefer_indexes()
    now = w.now + timedelta(hours=1)
    # Of rotations it reads those that are open, by an index that holds no others.
    others = LARGE - {Rotation._meta.db_table}
    assert all_read_whole(lambda: notifying.tick(now, ring=lambda _: None), others) == {}
