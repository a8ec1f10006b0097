"""An emergency in every stage of a rotation, for either of its versions: what happens, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import transaction

from keyvault.actors import SYSTEM
from keyvault.exceptions import KeyturnError
from rotation.facts import Stage
from rotation.models import EmergencyItem, Rotation
from rotation.policy import to_json
from rotation.services import emergencies
from rotation.services.emergencies import Way, lock_open, way_of
from tests.stories.world import World

Build = Callable[..., World]


def leak(w: World, *, version: int | None = None, mode: str = "replace") -> Rotation:
    how: dict[str, Any] = {"mode": mode, "reason": "leaked", "typed": str(w.key), "version": version}
    return emergencies.emergency(SYSTEM, w.key, **how, now=w.now, ring=w.rung.append)


def expected_way(w: World, number: int) -> Way:
    with transaction.atomic():
        leaked = w.version(number)
        rotation, key = lock_open(w.key, leaked)
        return way_of(key, leaked, rotation)


def requested(w: World) -> None:
    """Another person has to approve the start."""
    policy = replace(w.policy.value, approvals={"start": 1, "revoke": 0})
    w.policy.document = to_json(policy)
    w.policy.save()
    w.start()
    assert w.rotation.stage == Stage.REQUESTED


def deploy(w: World) -> None:
    w.start()
    assert w.rotation.stage == Stage.DEPLOY


def shift_at(weight: int) -> Callable[[World], None]:
    def there(w: World) -> None:
        w.start()
        w.run(lambda: w.rotation.stage == Stage.SHIFT and w.rotation.weight == weight)

    return there


def paused(w: World) -> None:
    shift_at(25)(w)
    w.verb("pause")


def monitor(w: World) -> None:
    w.start()
    w.run_to(Stage.MONITOR)


def cooling_off(w: World) -> None:
    w.start()
    w.run(lambda: w.rotation.waiting_code == "cool_off")
    assert w.rotation.stage == Stage.REVOKE


def revoke_asked(w: World) -> None:
    """The provider's management plane is away, so that the revoke stays under way."""
    w.start()
    w.run(lambda: w.rotation.waiting_code == "cool_off")
    w.control.set_fault(planes=["manage"], error_rate=1.0)
    w.run(lambda: w.rotation.revoke_asked_at is not None)


def rolled_back(w: World) -> None:
    shift_at(25)(w)
    w.verb("abort")
    assert w.rotation.stage == Stage.ROLLED_BACK


def attention(w: World) -> None:
    w.control.set_fault(max_keys=1)
    w.start()
    w.run(lambda: w.rotation.attention != "", traffic=False)
    w.control.clear_faults()
    w.control.set_fault(max_keys=5)


ROWS = [
    # where, the leaked version, what is done, whether the leaked one is replaced by another rotation
    ("requested", requested, 1, Way.HURRY, 1),
    ("deploy", deploy, 1, Way.HURRY, 1),
    ("shift at 25", shift_at(25), 1, Way.HURRY, 1),
    ("shift at 50", shift_at(50), 1, Way.HURRY, 1),
    ("shift at 100", shift_at(100), 1, Way.HURRY, 1),
    ("shift, paused", paused, 1, Way.HURRY, 1),
    ("shift, the new one leaked", shift_at(50), 2, Way.ROLL_BACK, 1),
    ("monitor", monitor, 1, Way.HURRY, 1),
    ("monitor, the new one leaked", monitor, 2, Way.ROLL_BACK, 1),
    ("cooling off", cooling_off, 1, Way.HURRY, 1),
    ("cooling off, the new one leaked", cooling_off, 2, Way.ROLL_BACK, 1),
    ("revoke asked", revoke_asked, 1, Way.HURRY, 1),
    ("revoke asked, the new one leaked", revoke_asked, 2, Way.WAIT, 2),
    ("rolled back", rolled_back, 1, Way.START, 2),
    ("rolled back, the withheld one leaked", rolled_back, 2, Way.REVOKE, 1),
    ("attention", attention, 1, Way.HURRY, 1),
]


@pytest.mark.parametrize(
    ("where", "arrive", "number", "way", "rotations"), ROWS, ids=[row[0] for row in ROWS]
)
def test_the_leaked_version_dies_and_nobody_is_without_a_key(
    world: Build, where: str, arrive: Callable[[World], None], number: int, way: Way, rotations: int
) -> None:
    w = world()
    w.tick()
    arrive(w)
    failed_before = dict(w.failures)
    assert expected_way(w, number) is way
    leak(w, version=number)
    assert w.version(number).compromised_at is not None
    w.control.clear_faults()
    w.run(lambda: not w.honoured(number) and not Rotation.objects.open().exists(), most=300)
    assert Rotation.objects.filter(key=w.key_id).count() == rotations
    assert w.key.current is not None
    assert w.honoured(w.key.current.number)
    assert w.key.current.compromised_at is None
    assert dict(w.failures) == failed_before, f"consumers failed: {w.failures}"
    assert not EmergencyItem.objects.filter(state="waiting").exists()


def test_where_the_new_one_leaks_after_the_old_one_a_third_takes_over(world: Build) -> None:
    w = world()
    w.tick()
    leak(w)
    w.run(lambda: w.rotation.stage == Stage.MONITOR)
    leak(w)  # the current one is v2 now
    w.run(lambda: w.key.current is not None and w.key.current.number == 3, most=600)
    w.run(lambda: not w.honoured(1) and not w.honoured(2) and not Rotation.objects.open().exists(), most=600)
    assert w.honoured(3)
    assert w.failures == {}


def test_an_abort_whose_outgoing_key_leaks_goes_on_after_all(world: Build) -> None:
    w = world()
    w.start()
    w.work()
    w.control.set_fault(planes=["manage"], error_rate=1.0)
    aborted_while_open = w.rotation
    Rotation.objects.filter(pk=aborted_while_open.pk).update(abort_asked_at=w.now)
    leak(w)
    assert w.rotation.abort_asked_at is None
    w.control.clear_faults()
    w.run(lambda: not w.honoured(1))
    assert w.key.current is not None
    assert w.key.current.number == 2


@pytest.mark.parametrize("mode", emergencies.MODES)
def test_asking_twice_does_nothing_twice(world: Build, mode: str) -> None:
    w = world()
    first = leak(w, mode=mode)
    events, revision = w.events(), w.rotation.revision
    assert leak(w, version=1, mode=mode).id == first.id
    assert (w.events(), w.rotation.revision) == (events, revision)
    assert Rotation.objects.count() == 1


def test_a_kill_after_a_replace_withholds_at_once(world: Build) -> None:
    w = world()
    leak(w)
    assert w.version(1).withheld_at is None
    leak(w, version=1, mode="kill")
    assert w.version(1).withheld_at is not None
    assert Rotation.objects.count() == 1


def test_a_kill_of_the_new_one_after_the_point_of_no_return_withholds_it_at_once(world: Build) -> None:
    w = world()
    revoke_asked(w)
    leak(w, version=2, mode="kill")
    assert w.version(2).withheld_at is not None
    w.control.clear_faults()
    w.run(lambda: w.key.current is not None and w.key.current.number == 3, traffic=False)
    assert not w.honoured(1)
    assert not w.honoured(2)
    assert w.honoured(3)


def test_a_kill_of_the_last_version_needs_the_name_and_tells_who_suffers(world: Build) -> None:
    w = world(instances=2)
    w.tick()
    w.report(w.instances[0], 1, {"ok": 1}, jobs_opened=3)
    with pytest.raises(KeyturnError) as refused:
        emergencies.emergency(SYSTEM, w.key, mode="kill", reason="x", typed="prod", now=w.now)
    assert refused.value.code == "precondition_failed"
    assert refused.value.extra["confirm"] == str(w.key)
    assert refused.value.extra["open_jobs"] == 3
    assert refused.value.extra["instances"] == [f"{w.consumer.slug}/web-{n}" for n in range(2)]
    assert w.version(1).withheld_at is None
    assert w.version(1).compromised_at is None
    assert not Rotation.objects.exists()


def test_a_kill_beside_a_working_version_needs_no_name(world: Build) -> None:
    w = world()
    shift_at(50)(w)
    emergencies.emergency(SYSTEM, w.key, mode="kill", reason="x", now=w.now, ring=w.rung.append)
    assert w.version(1).withheld_at is not None


def test_what_is_dead_already_is_refused(world: Build) -> None:
    w = world()
    w.start()
    w.run_to(Stage.SUCCEEDED)
    with pytest.raises(KeyturnError) as refused:
        leak(w, version=1)
    assert refused.value.code == "invalid_transition"
    with pytest.raises(KeyturnError) as unknown:
        leak(w, version=9)
    assert unknown.value.code == "no_active_version"
