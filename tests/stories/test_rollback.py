"""The new key misbehaves, and the old one is back before anybody has to look."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stories.world import Instance, World

Build = Callable[..., World]


def _incoming_id(w: World) -> str:
    incoming = w.rotation.incoming
    assert incoming is not None
    return incoming.provider_key_id


def _moved(w: World) -> Instance:
    """An instance that the present weight has moved."""
    w.some_move(least=3)
    w.traffic()
    return next(i for i in w.instances if i.version == 2)


def test_a_rejected_key_rolls_back_in_shift(world: Build) -> None:
    w = world(instances=12)
    w.start()
    w.run(lambda: w.rotation.weight == 25)
    w.control.set_fault(reject_key_id=_incoming_id(w))
    w.run_to("rolled_back", most=4)

    assert w.rotation.rolled_back_reason
    assert w.key.current is not None
    assert w.key.current.number == 1
    assert w.key.pending is None
    assert w.rotation.weight == 0
    assert w.version(2).withheld_at is not None
    hit = dict(w.failures)
    w.tick()
    w.tick()
    assert dict(w.failures) == hit, "nobody is given the rejected key any more"
    assert set(hit) < {i.name for i in w.instances}, "only the share that was shifted was hit"


def test_after_the_quarantine_the_withheld_key_ends_revoked(world: Build) -> None:
    w = world()
    w.start()
    w.run(lambda: w.rotation.weight == 50)
    w.verb("abort")
    assert w.rotation.stage == "rolled_back"
    assert w.honoured(2), "it is kept for a while, in case somebody must look"
    w.run(lambda: w.rotation.check_at is None, step=60)
    assert not w.honoured(2)
    assert w.version(2).state == "revoked"
    assert w.honoured(1)


def test_a_rejected_key_rolls_back_in_monitor(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("monitor")
    w.tick()
    w.control.set_fault(reject_key_id=_incoming_id(w))
    w.run_to("rolled_back", most=5)
    assert w.key.current is not None
    assert w.key.current.number == 1
    assert w.key.previous is None
    w.tick()
    before = sum(w.failures.values())
    w.tick()
    assert sum(w.failures.values()) == before


def test_a_higher_error_rate_rolls_back_after_three_checks(world: Build) -> None:
    w = world(instances=16)
    w.start()
    w.run(lambda: w.rotation.weight == 50)
    w.some_move()
    checks = 0
    while w.rotation.stage == "shift":
        w.tick(traffic=False)
        for instance in w.instances:
            version = w.ask(instance)
            bad = 4 if version.number == 2 else 0
            w.report(instance, version.number, {"ok": 20 - bad, "server_error": bad})
        checks += 1
        assert checks < 20
    assert w.rotation.stage == "rolled_back"
    assert "%" in w.rotation.rolled_back_reason
    assert checks >= 3, "one bad minute is no reason"


def test_rollback_goes_on_while_paused(world: Build) -> None:
    w = world(instances=12)
    w.start()
    w.run(lambda: w.rotation.weight == 25)
    w.verb("pause")
    w.control.set_fault(reject_key_id=_incoming_id(w))
    w.run_to("rolled_back", most=5)


def test_one_consumer_alone_cannot_roll_back(world: Build) -> None:
    w = world(instances=16)
    w.start()
    w.run(lambda: w.rotation.weight == 50)
    liar = _moved(w)
    for _ in range(4):
        w.tick()
        w.report(liar, 2, {"auth_invalid": 50})
    assert w.rotation.stage == "shift"


def test_a_provider_incident_holds_and_never_rolls_back(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("monitor")
    w.run(lambda: w.rotation.monitored_seconds > 60)
    w.control.set_fault(error_rate=1.0, error_status=503)
    w.tick(60)
    for _ in range(12):
        w.tick(10, traffic=False)
        for instance in w.instances:
            w.report(instance, w.ask(instance).number, {"server_error": 5})
    stood = w.rotation.monitored_seconds
    for _ in range(6):
        w.tick(10, traffic=False)
        for instance in w.instances:
            w.report(instance, w.ask(instance).number, {"server_error": 5})
    assert w.rotation.stage == "monitor"
    assert w.rotation.monitored_seconds == stood
    assert w.rotation.clock_note
    w.control.clear_faults()
    w.run_to("succeeded")


@pytest.mark.parametrize("stage", ["deploy", "shift", "monitor"])
def test_abort_before_the_revoke_brings_the_old_key_back(world: Build, stage: str) -> None:
    w = world()
    w.control.set_fault(planes=["manage"], retry_after=5)
    w.start()
    if stage != "deploy":
        w.control.clear_faults()
        w.run_to(stage)
    else:
        w.work()
    w.verb("abort")
    w.control.clear_faults()
    w.run(lambda: not w.rotation.is_open)
    assert w.rotation.stage == ("cancelled" if stage == "deploy" else "rolled_back")
    assert w.key.current is not None
    assert w.key.current.number == 1
    assert w.honoured(1)
    assert w.failures == {}


def test_abort_while_the_old_key_cools_off_enables_it_again(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("revoke")
    assert w.version(1).state == "disabled"
    assert not w.honoured(1)
    w.verb("abort")
    w.work()
    w.run_to("rolled_back", most=10)
    assert w.honoured(1)
    assert w.key.current is not None
    assert w.key.current.number == 1


def test_jobs_of_the_outgoing_key_are_no_error_of_the_incoming_one(world: Build) -> None:
    w = world(instances=16)
    w.start()
    w.run(lambda: w.rotation.weight == 50)
    mover = _moved(w)
    for _ in range(8):
        w.tick()
        w.report(mover, 2, {"not_found_job": 3})
    assert w.rotation.stage == "shift"
    assert w.rotation.weight == 50
    assert w.rotation.waiting_code == "affinity"


def test_an_instance_without_a_key_is_named(world: Build) -> None:
    w = world(instances=16)
    w.start()
    w.run(lambda: w.rotation.weight == 50)
    poor = _moved(w)
    for _ in range(8):
        w.tick()
        w.report(poor, 2, {"auth_missing": 1})
    assert w.rotation.weight == 50
    assert poor.name in w.rotation.waiting_for


def test_silence_never_promotes(world: Build) -> None:
    w = world(instances=4)
    w.start()
    w.run(lambda: w.rotation.weight == 100)
    for _ in range(60):
        w.tick(10, traffic=False)
        for instance in w.instances:
            w.ask(instance)
    assert w.rotation.stage == "shift"
    assert w.rotation.verdict == "inconclusive"
    w.run_to("monitor")
