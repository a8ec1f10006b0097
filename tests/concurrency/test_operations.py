"""Workers that race, come late or were given up: the provider is asked once, the outcome is written once."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import models

from keyvault.models import AuditEvent, AuditHead, Key, KeyVersion
from rotation import engine, operations
from rotation.facts import OperationState
from rotation.models import Operation, Rotation, RotationEvent
from rotation.services import ticking
from rotation.simulators import KeyView
from tests.conftest import Tell
from tests.integration.furniture import at_once, broken_at, raised, returned
from tests.scale import scaled
from tests.stories.world import World

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

WORKERS = 16
DUPLICATES = scaled("DUPLICATES", 5_000, 50_000)
DEAF = 4  # workers that hear everything again


def everything() -> dict[str, list[Any]]:
    """Every row that a worker may write."""
    tables: tuple[type[models.Model], ...] = (
        Operation,
        Rotation,
        RotationEvent,
        Key,
        KeyVersion,
        AuditEvent,
        AuditHead,
    )
    return {
        table.__name__: [
            {name: bytes(cell) if isinstance(cell, memoryview) else cell for name, cell in row.items()}
            for row in table._default_manager.order_by("pk").values()
        ]
        for table in tables
    }


def made_by(w: World) -> list[KeyView]:
    """Every key that the provider ever made."""
    keys_of_provider = w.control.keys
    return keys_of_provider()


def issue_of(rotation: Rotation) -> Operation:
    return Operation.objects.get(rotation=rotation, kind="issue")


def test_racing_workers_create_one_key_at_the_provider(world: Callable[..., World]) -> None:
    w = world()
    rotation = w.start()
    operation = issue_of(rotation)
    before = len(made_by(w))

    def work() -> bool:
        return operations.perform(operation.id, w.now, ring=lambda _: None)

    outcomes = at_once(*([work] * WORKERS))
    assert not raised(outcomes)
    assert sorted(returned(outcomes)) == [False] * (WORKERS - 1) + [True]
    assert len(made_by(w)) == before + 1
    operation.refresh_from_db()
    assert (operation.state, operation.tries, operation.fence) == ("done", 1, 1)
    assert w.honoured(2)


def test_a_whole_rotation_with_every_doorbell_rung_four_times(world: Callable[..., World]) -> None:
    w = world()
    w.start()
    for _ in range(60):
        while w.rung:
            operation_id: uuid.UUID = w.rung.popleft()
            outcomes = at_once(
                *([lambda o=operation_id: operations.perform(o, w.now, ring=w.rung.append)] * 4)
            )
            assert not raised(outcomes), raised(outcomes)
        if w.rotation.stage == "succeeded":
            break
        w.now += timedelta(seconds=5)
        assert not raised(at_once(*([lambda: ticking.tick(w.now, ring=w.rung.append)] * 2)))
    assert w.rotation.stage == "succeeded"
    assert [view.state for view in made_by(w)] == ["revoked", "live"]
    assert max(Operation.objects.exclude(kind="probe").values_list("attempt", flat=True)) == 1
    stages = list(w.rotation.events.filter(name="stage").values_list("stage", flat=True))
    assert stages == ["deploy", "shift", "monitor", "revoke", "succeeded"]
    assert broken_at() is None


@pytest.mark.long
def test_everything_said_again_changes_nothing(world: Callable[..., World], tell: Tell) -> None:
    """Every message of a whole rotation comes again and again, in any order, to several workers."""
    w = world()
    rotation = w.start()
    w.run_to("succeeded", step=5, traffic=False)
    said = list(Operation.objects.filter(rotation=rotation).values_list("id", flat=True))
    before, made = everything(), made_by(w)
    order = random.Random(20260302)

    def hear() -> int:
        for n in range(DUPLICATES // DEAF):
            assert not operations.perform(order.choice(said), w.now, ring=lambda _: None)
            if n % 20 == 0:
                engine.advance(rotation.id, w.now, ring=lambda _: None)
        return DUPLICATES // DEAF

    heard = at_once(*([hear] * DEAF))
    assert not raised(heard), raised(heard)
    tell("messages that came again", {"operations": sum(returned(heard)), "changed": everything() != before})
    assert everything() == before
    assert made_by(w) == made


def test_a_stale_worker_writes_nothing(world: Callable[..., World]) -> None:
    """Its lease ran out while it asked; another one did the work; then it comes back with an answer."""
    w = world()
    rotation = w.start()
    w.work()
    w.tick(5, traffic=False)
    verify = Operation.objects.filter(rotation=rotation, kind="verify").first()
    probe = Operation.objects.filter(rotation=rotation, kind="probe", side="outgoing").first()
    assert verify is not None
    late = probe if probe is not None and probe.state != OperationState.DONE else verify
    Operation.objects.filter(pk=late.pk).update(
        state=OperationState.PENDING, retry_at=w.now, finished_at=None, outcome=""
    )
    slow = operations.claim(late.id, w.now)
    assert slow is not None
    answer = operations.call(slow, w.now)

    w.now += operations.LEASE + timedelta(seconds=1)
    assert rotation.id in operations.sweep(w.now)
    assert operations.perform(late.id, w.now, ring=lambda _: None) is True

    before = everything()
    assert operations.settle(slow.id, slow.fence, answer, w.now, ring=lambda _: None) is False
    assert everything() == before


def test_a_stale_worker_does_not_answer_for_the_one_that_took_over(world: Callable[..., World]) -> None:
    """The operation runs, in other hands. The late answer must not end it."""
    w = world()
    rotation = w.start()
    w.work()
    w.run(lambda: rotation.operations.filter(kind="probe").exists(), step=5, traffic=False)
    probe = rotation.operations.filter(kind="probe").first()
    assert probe is not None
    Operation.objects.filter(pk=probe.pk).update(
        state=OperationState.PENDING, retry_at=w.now, finished_at=None, outcome=""
    )
    slow = operations.claim(probe.id, w.now)
    assert slow is not None
    answer = operations.call(slow, w.now)
    w.now += operations.LEASE + timedelta(seconds=1)
    operations.sweep(w.now)
    fresh = operations.claim(probe.id, w.now)
    assert fresh is not None
    assert fresh.fence > slow.fence

    before = everything()
    assert operations.settle(slow.id, slow.fence, answer, w.now, ring=lambda _: None) is False
    assert everything() == before
    assert operations.settle(fresh.id, fresh.fence, answer, w.now, ring=lambda _: None) is True


def test_an_issue_whose_worker_was_given_up_does_not_come_back(world: Callable[..., World]) -> None:
    """The late answer holds a real key. It is not taken: the reconcile has dealt with it."""
    w = world()
    rotation = w.start()
    operation = issue_of(rotation)
    slow = operations.claim(operation.id, w.now)
    assert slow is not None
    answer = operations.call(slow, w.now)
    assert answer.issued is not None

    w.now += operations.LEASE + timedelta(seconds=1)
    w.rung.clear()
    w.tick(0, traffic=False)
    operation.refresh_from_db()
    assert operation.state == "unknown"
    w.run(lambda: w.rotation.stage == "shift", step=5, traffic=False)

    before = everything()
    assert operations.settle(slow.id, slow.fence, answer, w.now, ring=lambda _: None) is False
    assert everything() == before
    live = [view.id for view in made_by(w) if view.live]
    held = list(KeyVersion.objects.filter(key=w.key_id).values_list("provider_key_id", flat=True))
    assert set(live) <= {*held, made_by(w)[0].id}
    w.run_to("succeeded", step=5, traffic=False)
    assert len([view for view in made_by(w) if view.live]) == 1


def test_stale_and_fresh_settle_at_once(world: Callable[..., World]) -> None:
    w = world()
    rotation = w.start()
    operation = issue_of(rotation)
    held = operations.claim(operation.id, w.now)
    assert held is not None
    answer = operations.call(held, w.now)

    def settle(fence: int) -> bool:
        return operations.settle(held.id, fence, answer, w.now, ring=lambda _: None)

    fences = [held.fence, held.fence - 1, held.fence + 1, held.fence] * 4
    outcomes = at_once(*(lambda fence=fence: settle(fence) for fence in fences))
    assert not raised(outcomes)
    winners = [fence for fence, settled in zip(fences, outcomes, strict=True) if settled]
    assert winners == [held.fence]
    assert KeyVersion.objects.filter(key=w.key_id, state="active").count() == 2
    assert AuditEvent.objects.filter(name="key:version:issued").count() == 1
    assert broken_at() is None
