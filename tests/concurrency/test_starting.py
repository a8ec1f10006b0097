"""Many start at once; one rotation is the result."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import pytest
from django.db import connections, transaction

from keyvault.actors import SYSTEM, actor_for
from keyvault.domain import Role
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, User
from keyvault.services import keys, people
from rotation import engine
from rotation.models import Exposure, KeySchedule, Operation, Rotation, RotationPolicy
from rotation.services import emergencies, exposure, policies, scheduling, starting, ticking
from tests.integration.furniture import (
    NOW,
    PATIENCE,
    Furniture,
    at_once,
    broken_at,
    furnish,
    raised,
    reread,
    returned,
    second_version,
)
from tests.integration.processes import wait_for
from tests.stories.world import World

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]


def quiet(_: uuid.UUID) -> None:
    """Nobody is woken: what is due stands in the database."""


def test_64_threads_start_one_rotation(world: Callable[..., World]) -> None:
    w = world()
    key, policy = w.key, w.policy

    def start() -> uuid.UUID:
        return starting.start(SYSTEM, key, policy=policy, now=w.now, ring=quiet).id

    outcomes = at_once(*([start] * 64))
    (started,) = returned(outcomes)
    refusals = raised(outcomes)
    assert len(refusals) == 63
    for refusal in refusals:
        assert isinstance(refusal, KeyturnError), refusal
        assert refusal.code == "rotation_in_progress"
        assert refusal.extra["rotation"] == str(started)
    rotation = Rotation.objects.get()
    assert rotation.id == started
    assert Operation.objects.filter(kind="issue").count() == 1
    assert reread(key).versions.count() == 2
    assert broken_at() is None


def test_many_schedulers_start_each_due_key_once(furniture: Furniture) -> None:
    due: list[Key] = []
    for _ in range(5):
        key = furnish().key()
        policies.assign_policy(SYSTEM, key, RotationPolicy.objects.get(slug="standard"), now=NOW)
        due.append(key)
    KeySchedule.objects.update(next_rotation_at=NOW)

    outcomes = at_once(*([lambda: scheduling.start_due(NOW, ring=quiet)] * 8))
    assert not raised(outcomes)
    assert sum(len(started) for started in returned(outcomes)) == 5
    assert sorted(Rotation.objects.values_list("key_id", flat=True)) == sorted(key.id for key in due)
    assert broken_at() is None


def test_many_schedulers_note_an_exposure_once(furniture: Furniture) -> None:
    key = furniture.key()
    policies.assign_policy(SYSTEM, key, RotationPolicy.objects.get(slug="standard"), now=NOW)
    user = User.objects.create(username="ann")
    people.set_member(SYSTEM, furniture.team, username="ann", role=Role.LEAD, now=NOW)
    keys.reveal(actor_for(user), key, reason="debugging", now=NOW)
    outcomes = at_once(*([lambda: exposure.look(NOW)] * 8))
    assert not raised(outcomes)
    assert sum(returned(outcomes)) == 1
    assert Exposure.objects.get().cause == "revealed"
    people.remove_member(SYSTEM, furniture.team, username="ann", now=NOW)
    outcomes = at_once(*([lambda: exposure.look(NOW)] * 8))
    assert not raised(outcomes)
    assert sum(returned(outcomes)) == 1
    assert broken_at() is None


def test_two_whole_beats_at_once_do_what_one_does(furniture: Furniture) -> None:
    key = furniture.key()
    policies.assign_policy(SYSTEM, key, RotationPolicy.objects.get(slug="standard"), now=NOW)
    KeySchedule.objects.update(next_rotation_at=NOW)
    outcomes = at_once(*([lambda: ticking.tick(NOW, ring=quiet)] * 6))
    assert not raised(outcomes)
    assert Rotation.objects.count() == 1
    assert Operation.objects.count() == 1


def test_a_locked_key_shows_the_labels_of_the_one_who_held_it_before(furniture: Furniture) -> None:
    """Rows that are joined to the locked one must not be those of before the wait."""
    key = furniture.key()
    incoming = second_version(key)
    first = key.current
    assert first is not None
    held, waiting = threading.Event(), threading.Event()
    seen: list[tuple[int | None, int | None]] = []

    def promote() -> None:
        with transaction.atomic():
            locked = keys.lock_key(key.id)
            held.set()
            assert waiting.wait(PATIENCE)
            _wait_for_a_blocked_lock()
            keys.offer(
                SYSTEM, locked, incoming, salt=b"s", canaries=(), pinned=(), refresh_seconds=5, now=NOW
            )
            keys.promote(SYSTEM, locked, now=NOW)

    def look() -> None:
        assert held.wait(PATIENCE)
        with transaction.atomic():
            waiting.set()
            locked = keys.lock_key(key.id)
            seen.append(
                (
                    locked.current.number if locked.current is not None else None,
                    locked.previous.number if locked.previous is not None else None,
                )
            )

    assert not raised(at_once(promote, look))
    assert seen == [(2, 1)]


def _wait_for_a_blocked_lock() -> None:
    """Until another connection waits for a lock: then it has taken its snapshot."""

    def blocked() -> bool:
        with connections["default"].cursor() as cursor:
            cursor.execute("select count(*) from pg_locks where not granted")
            return bool(cursor.fetchone()[0])

    wait_for(blocked, "another connection waits")


def test_an_emergency_and_a_beat_do_not_lock_each_other_out(world: Callable[..., World]) -> None:
    """Both lock the rotation and its key. Crosswise, PostgreSQL would abort one of them."""
    for _ in range(15):
        w = world()
        rotation = w.start()

        def alarm(w: World = w) -> object:
            return emergencies.emergency(
                SYSTEM, w.key, mode="kill", reason="leak", typed=str(w.key), now=w.now, ring=quiet
            )

        def beat(w: World = w, rotation_id: uuid.UUID = rotation.id) -> object:
            return [engine.advance(rotation_id, w.now, ring=quiet) for _ in range(5)]

        outcomes = at_once(alarm, beat, beat, beat)
        assert not raised(outcomes), raised(outcomes)
        assert w.rotation.id == rotation.id
        assert w.rotation.policy_slug == "emergency"
        version = w.version(1)
        assert version.compromised_at is not None
        assert version.withheld_at is not None
    assert broken_at() is None
