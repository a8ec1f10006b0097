"""The provider lies, workers die, people are slow: what the table of faults promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from keyvault.actors import SYSTEM, Actor
from keyvault.domain import Role
from keyvault.exceptions import KeyturnError
from keyvault.models import User
from keyvault.services import keys, people
from rotation import operations
from rotation.facts import Kind, OperationState
from rotation.models import Operation
from rotation.policy import Policy
from rotation.services import approving, emergencies, starting, verbs
from rotation.services.saying import verbs_of
from rotation.simulators import RunningSimulator
from tests.stories.conftest import BRISK
from tests.stories.world import World

Build = Callable[..., World]


def _live(w: World) -> list[str]:
    views = w.control.keys()
    return [view.label for view in views if view.live]


def _without(w: World, *members: str) -> None:
    """Take abilities away from the provider's management API."""
    w.provider.driver_config = {k: v for k, v in w.provider.driver_config.items() if k not in members}
    w.provider.save()


def test_a_lost_answer_is_found_by_our_label_revoked_and_issued_again(world: Build) -> None:
    w = world()
    _without(w, "idempotency_header")
    w.control.set_fault(lose_create_answers=1)
    w.start()
    w.run_to("shift")
    assert len(_live(w)) == 2, "the old key, and exactly one new one"
    outcomes = list(
        Operation.objects.filter(rotation=w.rotation, kind=Kind.RECONCILE).values_list("outcome", flat=True)
    )
    assert outcomes == ["orphan_revoked"]


def test_a_lost_answer_is_replayed_where_the_provider_honours_idempotency_keys(world: Build) -> None:
    w = world()
    w.provider.driver_config = {**w.provider.driver_config, "replay": True}
    w.control.set_fault(lose_create_answers=1)
    w.start()
    w.run_to("shift")
    assert len(_live(w)) == 2


def test_a_lost_answer_of_a_provider_that_cannot_list_asks_a_person(world: Build) -> None:
    w = world()
    _without(w, "idempotency_header", "list")
    w.control.set_fault(lose_create_answers=1)
    w.start()
    w.run(lambda: bool(w.rotation.attention), most=10)
    assert w.rotation.attention == "possible_orphan"
    assert w.honoured(1)
    assert w.failures == {}


def test_a_worker_that_dies_while_issuing_leaves_no_second_key(world: Build) -> None:
    w = world()
    _without(w, "idempotency_header")
    w.start()
    issue = Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)
    # The worker claims, the provider creates, and then the worker is gone.
    Operation.objects.filter(pk=issue.pk).update(
        state="running", fence=1, lease_until=w.now + timedelta(seconds=60)
    )
    w.control.create_key(issue.label)
    w.rung.clear()
    w.run_to("shift", step=30)
    assert len(_live(w)) == 2
    assert w.failures == {}


def test_a_stale_worker_settles_nothing(world: Build) -> None:
    w = world()
    w.start()
    issue = Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)
    Operation.objects.filter(pk=issue.pk).update(state="running", fence=7, lease_until=w.now)
    stale = operations.Settlement(OperationState.DONE, "issued")
    assert not operations.settle(issue.id, 6, stale, w.now, ring=w.rung.append)
    assert w.rotation.stage == "deploy"
    issue.refresh_from_db()
    assert issue.state == "running"


def test_a_duplicate_message_changes_nothing(world: Build) -> None:
    w = world()
    w.start()
    issue = Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)
    assert operations.perform(issue.id, w.now, ring=w.rung.append)
    assert not operations.perform(issue.id, w.now, ring=w.rung.append)
    assert len(_live(w)) == 2


def test_a_key_that_does_not_die_is_a_persons_business(world: Build) -> None:
    w = world()
    _without(w, "disable", "enable")
    w.control.set_fault(revoke_delay=1e9)
    w.start()
    w.run_to("revoke")
    w.run(lambda: w.rotation.attention == "undead_key", step=60)
    assert "confirm-revoked" in verbs_of(w.rotation)


def test_a_provider_without_room_says_so_before_anything_is_created(world: Build) -> None:
    w = world()
    made = w.control.create_key("left over")
    with transaction.atomic():
        key = keys.lock_key(w.key_id)
        other = keys.request_version(SYSTEM, key, now=w.now)
        keys.fill_version(SYSTEM, key, other, made.value, provider_key_id=made.id, imported=False, now=w.now)
    w.provider.max_keys = 2
    w.provider.save()
    w.start()
    w.tick()
    assert w.rotation.attention == "quota_full"
    assert len(_live(w)) == 2


def test_a_quota_told_by_the_provider_deletes_nothing(world: Build) -> None:
    w = world()
    w.control.set_fault(max_keys=1)
    w.start()
    w.tick()
    assert w.rotation.attention == "quota_full"
    assert len(_live(w)) == 1
    assert w.honoured(1)


def test_a_provider_that_kills_the_old_key_on_issue_goes_straight_to_everybody(world: Build) -> None:
    w = world()
    w.control.set_fault(replaces=True)
    w.start()
    w.work()
    w.run(lambda: w.rotation.stage == "monitor", most=3, traffic=False)
    assert w.rotation.no_fallback
    assert w.key.current is not None
    assert w.key.current.number == 2
    w.run_to("succeeded")


def test_a_probe_that_accepts_anything_is_found_out(
    db: None, settings: Any, legacy: RunningSimulator
) -> None:
    w = World(legacy, settings, policy=BRISK)
    w.provider.probe = {"method": "GET", "path": "/api/status", "accepted": [200, 404], "rejected": [401]}
    w.provider.save()
    w.start()
    w.run(lambda: bool(w.rotation.attention), most=30)
    assert w.rotation.attention == "verifier_broken"
    assert w.key.pending is None


def test_throttling_is_honoured_and_the_rotation_goes_on(world: Build) -> None:
    w = world()
    w.control.set_fault(planes=["manage"], retry_after=30)
    w.start()
    w.tick()
    issue = Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)
    assert issue.state == "pending"
    assert issue.retry_at is not None
    assert issue.retry_at - w.now >= timedelta(seconds=19)
    w.control.clear_faults()
    w.run_to("shift")


def test_a_straggler_holds_the_revoke_and_is_named(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("monitor")
    straggler = w.instances[0]
    for _ in range(90):
        w.tick()
        w.report(straggler, 1, {"ok": 1})
    assert w.rotation.stage == "monitor"
    assert straggler.name in w.rotation.waiting_for
    assert w.honoured(1)
    w.run_to("succeeded")


def test_downtime_of_keyturn_is_not_credited(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("monitor")
    w.run(lambda: w.rotation.monitored_seconds >= 120)
    before = w.rotation.monitored_seconds
    w.tick(3 * 3600 / 2)
    w.tick()
    assert w.rotation.monitored_seconds <= before + 30
    assert w.rotation.stage == "monitor"


def test_paused_time_is_not_credited(world: Build) -> None:
    w = world()
    w.start()
    w.run_to("monitor")
    w.run(lambda: w.rotation.monitored_seconds >= 120)
    w.verb("pause")
    before = w.rotation.monitored_seconds
    for _ in range(30):
        w.tick()
    assert w.rotation.monitored_seconds == before
    assert w.rotation.clock_note == "paused"
    w.verb("resume")
    w.run_to("succeeded")


# People ---------------------------------------------------------------------------------------------


def _person(w: World, name: str, role: Role) -> Actor:
    user = User.objects.create(username=f"{name}-{w.team.slug}")
    people.set_member(SYSTEM, w.team, username=user.username, role=role, now=w.now)
    return Actor("user", user.username, user.pk, roles={w.team.id: role})


def test_the_manual_provider_is_rotated_by_pasting_and_confirming(
    db: None, dashboard: RunningSimulator, settings: Any
) -> None:
    w = World(dashboard, settings, policy=BRISK, driver="manual")
    w.start()
    w.tick()
    assert w.rotation.attention == "supply_key"
    made = w.control.create_key("by hand")
    w.verb("supply", secret=made.value)
    w.run(lambda: w.rotation.attention == "confirm_revoked")
    assert w.rotation.stage == "revoke"
    old = w.version(1)
    w.verb("confirm_revoked")
    w.work()
    assert w.rotation.stage == "revoke", "a word is no proof while the provider still honours the key"
    w.control.revoke(old.provider_key_id)
    w.run_to("succeeded", step=60)
    assert not w.honoured(1)
    assert w.failures == {}


def test_a_pasted_key_that_we_hold_already_is_refused_and_changes_nothing(
    db: None, dashboard: RunningSimulator, settings: Any
) -> None:
    w = World(dashboard, settings, policy=BRISK, driver="manual")
    w.start()
    w.tick()
    with pytest.raises(KeyturnError) as refusal:
        w.verb("supply", secret=w.secret(1))
    assert "version 1" in refusal.value.fields["secret"][0]
    assert w.rotation.attention == "supply_key"
    assert w.version(2).state == "requested"


def test_approvals_come_from_another_person(world: Build) -> None:
    w = world(policy=replace(BRISK, approvals={"start": 1, "revoke": 0}))
    ann, bob = _person(w, "ann", Role.OPERATOR), _person(w, "bob", Role.OPERATOR)
    rotation = starting.start(ann, w.key, policy=w.policy, now=w.now, ring=w.rung.append)
    w.tick()
    assert w.rotation.stage == "requested"
    assert w.rotation.waiting_code == "approval_start"
    with pytest.raises(KeyturnError) as own:
        approving.approve(ann, rotation.id, reason="me", now=w.now, ring=w.rung.append)
    assert own.value.code == "permission_denied"
    approving.approve(bob, rotation.id, reason="looks right", now=w.now, ring=w.rung.append)
    w.run_to("shift")


def test_force_revoke_needs_the_number_of_offenders_and_another_persons_approval(world: Build) -> None:
    w = world(policy=replace(BRISK, approvals={"start": 0, "revoke": 1}))
    ann, bob = _person(w, "ann", Role.LEAD), _person(w, "bob", Role.LEAD)
    starting.start(ann, w.key, policy=w.policy, now=w.now, ring=w.rung.append)
    w.run_to("monitor")
    w.run(lambda: w.rotation.waiting_code == "approval_revoke")
    with pytest.raises(KeyturnError) as wrong:
        verbs.force_revoke(ann, w.rotation.id, reason="now", offender_count=3, now=w.now, ring=w.rung.append)
    assert wrong.value.code == "precondition_failed"
    with pytest.raises(KeyturnError) as alone:
        verbs.force_revoke(ann, w.rotation.id, reason="now", offender_count=0, now=w.now, ring=w.rung.append)
    assert alone.value.code == "approval_required"
    approving.approve(bob, w.rotation.id, reason="yes", now=w.now, ring=w.rung.append)
    assert w.rotation.stage == "revoke"


# Emergency ------------------------------------------------------------------------------------------


def test_emergency_replaces_at_once_and_revokes_the_leaked_key(world: Build) -> None:
    w = world()
    emergencies.emergency(SYSTEM, w.key, mode="replace", reason="leaked", now=w.now, ring=w.rung.append)
    w.run_to("succeeded", step=10)
    assert w.failures == {}
    assert not w.honoured(1)
    assert w.version(1).compromised_at is not None
    assert w.rotation.finished_at is not None
    assert w.rotation.finished_at - w.rotation.created_at < timedelta(minutes=10)


def test_emergency_kill_withholds_and_revokes_first(world: Build) -> None:
    w = world()
    emergencies.emergency(
        SYSTEM, w.key, mode="kill", reason="leaked", typed=str(w.key), now=w.now, ring=w.rung.append
    )
    assert w.version(1).withheld_at is not None, "nobody is given it from this instant"
    w.tick(1, traffic=False)
    assert not w.honoured(1)
    w.run_to("succeeded", traffic=False)
    assert w.key.current is not None
    assert w.key.current.number == 2


def test_emergency_hurries_an_open_rotation_instead_of_starting_a_second(world: Build) -> None:
    w = world()
    w.start()
    w.run(lambda: w.rotation.weight == 25)
    running = w.rotation.id
    emergencies.emergency(SYSTEM, w.key, mode="replace", reason="leaked", now=w.now, ring=w.rung.append)
    assert w.rotation.id == running
    w.run_to("succeeded")
    assert not w.honoured(1)


# Schedule -------------------------------------------------------------------------------------------


def test_a_due_key_is_rotated_by_the_schedule_once(world: Build, brisk: Policy) -> None:
    from rotation.models import KeySchedule, Rotation
    from rotation.services import policies

    w = world()
    schedule = policies.assign_policy(SYSTEM, w.key, w.policy, now=w.now)
    assert schedule.next_rotation_at is not None
    assert timedelta(days=28) < schedule.next_rotation_at - w.now <= timedelta(days=30)
    w.now = schedule.next_rotation_at
    w.tick(1)
    w.tick(1)
    assert Rotation.objects.filter(key=w.key_id, trigger="schedule").count() == 1
    w.run_to("succeeded")
    schedule = KeySchedule.objects.get(key=w.key_id)
    assert schedule.last_rotation_at is not None
    assert schedule.next_rotation_at is not None
    assert schedule.next_rotation_at > w.now + timedelta(days=28)
