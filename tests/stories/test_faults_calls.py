"""What a call can come to: answers that lie, come late, or never come, at every stage of a rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyvault.exceptions import KeyturnError
from keyvault.integrity import sign
from keyvault.models import AuditEvent
from rotation import operations
from rotation.calling import VERIFY_BUDGET
from rotation.facts import Kind, OperationState
from rotation.models import Operation
from rotation.services import ticking
from rotation.simulators import RunningSimulator, start
from tests.stories.conftest import BRISK
from tests.stories.world import START, World

Build = Callable[..., World]


def live(w: World) -> list[str]:
    views = w.control.keys()
    return [view.label for view in views if view.live]


def without(w: World, *members: str) -> None:
    """Take abilities away from the provider's management API."""
    w.provider.driver_config = {k: v for k, v in w.provider.driver_config.items() if k not in members}
    w.provider.save()


def of(w: World, kind: Kind) -> Operation:
    found = Operation.objects.filter(rotation=w.rotation, kind=kind).order_by("created_at").last()
    assert found is not None
    return found


def known_as(w: World, number: int, provider_key_id: str) -> None:
    """Let a version go by another id at the provider."""
    version = w.version(number)
    version.provider_key_id = provider_key_id
    sign(version)
    version.save()


def told(w: World) -> list[str]:
    """The reasons for which a person was called, in order."""
    rows = AuditEvent.objects.filter(name="rotation:attention", subject=str(w.rotation.id))
    return [row.details["code"] for row in rows.order_by("sequence")]


@pytest.fixture
def timed(db: None, settings: Any) -> Iterator[World]:
    """A world whose provider lives in the time of the story."""
    now = [START.timestamp()]
    running: RunningSimulator = start("removit", clock=lambda: now[0])

    class Timed(World):
        def work(self) -> None:
            now[0] = self.now.timestamp()
            super().work()

    yield Timed(running, settings, policy=BRISK)
    running.stop()


# Issue ----------------------------------------------------------------------------------------------


def test_an_issue_that_returns_the_key_in_use_is_no_rotation_and_kills_nothing(world: Build) -> None:
    w = world()
    w.control.set_fault(repeats=True)
    w.start()
    w.run(lambda: bool(w.rotation.attention), most=5)
    assert w.rotation.attention == "not_rotated"
    assert live(w) == ["first"]
    w.verb("abort")
    w.tick()
    assert w.rotation.stage == "cancelled"
    assert w.honoured(1)
    assert not Operation.objects.filter(kind__in=[Kind.REVOKE, Kind.DISABLE]).exists()
    assert w.failures == {}


def test_a_new_key_that_goes_by_the_id_of_one_in_use_is_not_taken(world: Build) -> None:
    w = world()
    secret_of = dict(w.provider.driver_config["issue"])
    # The provider's answer names the same id for every key.
    w.provider.driver_config = {**w.provider.driver_config, "issue": {**secret_of, "id": "/name"}}
    w.provider.save()
    w.start()
    issue = of(w, Kind.ISSUE)
    known_as(w, 1, f" {issue.label.upper()} ")
    w.tick()
    assert w.rotation.attention == "not_rotated"
    assert w.version(2).state == "requested"
    assert w.honoured(1)


def test_a_strangers_key_with_our_label_is_never_deleted(world: Build) -> None:
    w = world()
    without(w, "idempotency_header")
    w.control.set_fault(lose_create_answers=1)
    w.start()
    w.control.create_key(of(w, Kind.ISSUE).label)
    w.run(lambda: bool(w.rotation.attention), most=10)
    assert w.rotation.attention == "possible_orphan"
    assert len(live(w)) == 3, "nobody can say which of the two is ours"


def test_an_orphan_that_is_listed_only_on_a_later_page_is_found(world: Build) -> None:
    w = world()
    without(w, "idempotency_header")
    for n in range(5):
        w.control.create_key(f"somebody's-{n}")
    w.control.set_fault(lose_create_answers=1, page_size=2)
    w.start()
    w.run_to("shift")
    assert of(w, Kind.RECONCILE).outcome == "orphan_revoked"
    assert len(live(w)) == 7


def test_room_that_a_person_makes_lets_the_rotation_go_on(world: Build) -> None:
    w = world()
    strange = w.control.create_key("somebody's")
    w.control.set_fault(max_keys=2)
    w.start()
    w.tick()
    assert w.rotation.attention == "quota_full"
    assert sorted(live(w)) == ["first", "somebody's"], "nothing is deleted to make room"
    w.control.revoke(strange.id)
    w.verb("resume")
    w.run_to("succeeded")
    assert w.failures == {}
    assert told(w) == ["quota_full"]


def test_a_management_credential_that_is_refused_is_a_persons_business(world: Build) -> None:
    w = world()
    w.provider.driver_config = {**w.provider.driver_config, "admin_scheme": "Token"}
    w.provider.save()
    w.start()
    w.run(lambda: bool(w.rotation.attention), most=3)
    assert w.rotation.attention == "refused"
    assert "admin secret" in w.rotation.attention_reason
    assert of(w, Kind.ISSUE).tries == 1, "it would say no again"


# Verify ---------------------------------------------------------------------------------------------


def test_a_key_that_spreads_slowly_is_waited_for(timed: World) -> None:
    w = timed
    w.control.set_fault(issue_delay=240)
    w.start()
    w.run(lambda: of(w, Kind.ISSUE).state == "done", most=3)
    w.run(lambda: of(w, Kind.VERIFY).outcome == "rejected", most=3)
    assert "not accepted yet" in w.rotation.waiting_for or w.rotation.waiting_code == "verifying"
    w.run_to("shift", most=60)
    assert w.failures == {}


def test_a_key_that_is_never_accepted_is_rolled_back_and_ends_revoked(timed: World) -> None:
    w = timed
    w.control.set_fault(issue_delay=10**9)
    w.start()
    w.run_to("rolled_back", step=20)
    assert w.now - of(w, Kind.VERIFY).created_at >= VERIFY_BUDGET
    assert w.key.current is not None
    assert w.key.current.number == 1
    assert w.failures == {}
    w.run(lambda: w.rotation.check_at is None, step=60)
    assert live(w) == ["first"]


def test_a_plan_that_lapsed_blocks_and_is_settled_by_people(world: Build) -> None:
    w = world()
    w.start()
    issue = of(w, Kind.ISSUE)
    operations.perform(issue.id, w.now, ring=lambda _: None)
    w.control.set_fault(plan_lapsed=True)
    w.run(lambda: bool(w.rotation.attention), most=5, traffic=False)
    assert w.rotation.attention == "blocked"
    assert w.key.pending is None, "nobody is given a key that was not verified"
    w.control.clear_faults()
    w.verb("resume")
    w.run_to("shift")
    assert told(w) == ["blocked"]


@pytest.mark.parametrize("fault", [{"error_rate": 1.0}, {"timeout": 0.05}, {"retry_after": 5}])
def test_no_verdict_is_no_reason_to_roll_back_and_the_budget_calls_a_person_once(
    world: Build, fault: dict[str, Any]
) -> None:
    w = world()
    w.control.set_fault(**fault)
    w.start()
    w.run(lambda: bool(w.rotation.attention), step=60, traffic=False)
    assert w.rotation.attention == "no_verdict"
    assert w.rotation.stage == "deploy"
    for _ in range(5):
        w.tick(60, traffic=False)
    assert told(w) == ["no_verdict"]
    w.control.clear_faults()
    w.verb("resume")
    w.run_to("shift", step=60)


# Disable and revoke ---------------------------------------------------------------------------------


def test_a_revoke_whose_answer_was_lost_is_proved_by_a_probe(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("revoke")
    w.control.set_fault(lose_revoke_answers=1)
    w.run_to("succeeded")
    assert of(w, Kind.REVOKE).state == "unknown"
    assert of(w, Kind.CONFIRM).outcome == "dead"
    assert w.version(1).state == "revoked"
    assert not w.honoured(1)


def test_a_revoke_of_unknown_outcome_is_not_served_has_no_way_back_and_is_asked_again(
    world: Build,
) -> None:
    w = world()
    without(w, "disable", "enable")
    w.start()
    w.run_to("monitor")
    w.control.set_fault(error_rate=1.0, planes=["manage"])
    w.run(lambda: w.rotation.waiting_code == "confirming")
    assert of(w, Kind.REVOKE).state == "unknown"
    assert w.honoured(1), "it was not carried out, but nobody here can know"
    assert {w.ask(instance).number for instance in w.instances} == {2}
    with pytest.raises(KeyturnError) as refusal:
        w.verb("abort")
    assert refusal.value.code == "invalid_transition"
    assert "emergency" in str(refusal.value.extra["verbs"])
    w.control.clear_faults()
    w.run_to("succeeded")
    revokes = Operation.objects.filter(rotation=w.rotation, kind=Kind.REVOKE).order_by("created_at")
    assert [(row.state, row.superseded) for row in revokes] == [("unknown", True), ("done", False)]
    assert not w.honoured(1)


def test_a_provider_that_revokes_late_is_asked_until_the_key_is_dead(timed: World) -> None:
    w = timed
    without(w, "disable", "enable")
    w.control.set_fault(revoke_delay=120)
    w.start()
    w.run_to("monitor")
    w.run(lambda: w.rotation.waiting_code == "confirming")
    assert w.honoured(1)
    assert w.rotation.stage == "revoke", "not finished while the provider honours the key"
    w.run_to("succeeded")
    assert not w.honoured(1)


def test_a_worker_that_died_revoking_is_followed_and_settles_nothing_when_it_wakes(world: Build) -> None:
    w = world()
    without(w, "disable", "enable")
    w.start()
    w.run_to("monitor")
    w.run(lambda: Operation.objects.filter(rotation=w.rotation, kind=Kind.CONFIRM).exists())
    # Back to the moment before: the revoke is with a worker that the kernel has stopped.
    Operation.objects.filter(rotation=w.rotation, kind=Kind.CONFIRM).delete()
    revoke = of(w, Kind.REVOKE)
    Operation.objects.filter(pk=revoke.pk).update(
        state="running", fence=revoke.fence + 1, lease_until=w.now + operations.LEASE
    )
    zombie = revoke.fence + 1
    w.rung.clear()
    w.run_to("succeeded")
    before = list(AuditEvent.objects.values_list("sequence", flat=True))
    late = operations.Settlement(OperationState.FAILED, "refused", "said the sleeper")
    assert not operations.settle(revoke.id, zombie, late, w.now, ring=w.rung.append)
    assert list(AuditEvent.objects.values_list("sequence", flat=True)) == before
    assert w.rotation.stage == "succeeded"
    assert of(w, Kind.REVOKE).state == "done"


def test_a_revoke_never_hits_the_key_in_use_whatever_the_case_of_its_id(world: Build) -> None:
    w = world()
    without(w, "disable", "enable")
    w.start()
    w.run_to("monitor")
    known_as(w, 1, f"{w.version(2).provider_key_id.upper()} ")
    w.run(lambda: w.rotation.attention == "revoke_failed")
    assert of(w, Kind.REVOKE).outcome == "in_use"
    assert w.honoured(2)
    assert w.failures == {}


def test_a_key_without_the_providers_id_is_revoked_by_a_person(world: Build) -> None:
    w = world()
    there = w.version(1).provider_key_id
    known_as(w, 1, "")
    w.start()
    w.run(lambda: w.rotation.attention == "confirm_revoked")
    assert w.honoured(1)
    w.control.revoke(there)
    w.verb("confirm_revoked")
    w.run_to("succeeded")


def test_a_key_that_is_gone_already_is_revoked(world: Build) -> None:
    w = world()
    without(w, "disable", "enable")
    w.start()
    w.run_to("monitor")
    w.run(lambda: w.rotation.monitored_seconds > 200)
    w.control.revoke(w.version(1).provider_key_id)
    w.run_to("succeeded")
    assert of(w, Kind.REVOKE).outcome == "revoked"
    assert w.failures == {}


def test_a_late_use_in_the_cool_off_stops_the_revoke_and_can_be_undone(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("revoke")
    w.report(w.instances[0], 1, {"auth_invalid": 2})
    w.run(lambda: w.rotation.attention == "late_use", most=10)
    w.verb("abort")
    w.run_to("rolled_back", most=10)
    assert w.honoured(1)
    assert w.key.current is not None
    assert w.key.current.number == 1


# The doorbell ---------------------------------------------------------------------------------------


def test_a_broker_that_loses_every_message_costs_ticks_and_nothing_else(world: Build) -> None:
    w = world()
    w.start()

    def lost() -> bool:
        w.rung.clear()  # only what the tick itself rings for gets through
        return w.rotation.stage == "succeeded"

    w.run(lost)
    assert w.failures == {}


def test_messages_that_come_twice_and_backwards_change_nothing(world: Build) -> None:
    w = world()
    w.start()
    for _ in range(300):
        w.now += timedelta(seconds=10)
        w.traffic()
        ticking.tick(w.now, ring=w.rung.append)
        while w.rung:
            batch = [*w.rung, *w.rung]
            w.rung.clear()
            for operation_id in reversed(batch):
                operations.perform(operation_id, w.now, ring=w.rung.append)
        if w.rotation.stage == "succeeded":
            break
    assert w.rotation.stage == "succeeded"
    assert w.failures == {}
    attempts = Operation.objects.filter(rotation=w.rotation).exclude(kind=Kind.PROBE)
    assert set(attempts.values_list("attempt", flat=True)) == {1}
    assert live(w) == [of(w, Kind.ISSUE).label]


def test_who_resumes_while_an_answer_is_lost_makes_no_second_key(world: Build) -> None:
    """The key that a worker made before it died is asked for, also when a person was called in between."""
    w = world()
    w.start()
    operation = operations.claim(of(w, Kind.ISSUE).id, w.now)
    assert operation is not None
    operations.call(operation, w.now)  # the provider makes the key, and nobody is left to hear of it
    w.now += timedelta(hours=6)
    w.run(lambda: w.rotation.attention == "overdue", most=3)
    w.verb("resume")
    w.run_to("succeeded")
    views = w.control.keys()
    made = [view for view in views if view.label.startswith(f"keyturn-{w.rotation.id.hex[:20]}")]
    assert len(made) == 1
