"""What is due is started once, or held with a reason; what is exposed or expires is due earlier."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, time, timedelta
from typing import Any

import pytest

from keyvault.actors import SYSTEM, actor_for
from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent, Environment, Key, Membership, User
from keyvault.services import keys, people
from rotation import operations
from rotation.models import Exposure, KeySchedule, Operation, Rotation, RotationPolicy
from rotation.policy import EMERGENCY, FAST, Freeze, Policy, Window, to_json
from rotation.services import adding, exposure, policies, scheduling, starting, ticking, verbs
from tests.integration.furniture import NOW, Furniture, fresh_secret, furnish, reread

pytestmark = pytest.mark.django_db

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SWIFT = replace(EMERGENCY, interval=30 * DAY, quiet=timedelta(0), force_after=timedelta(0))
START_REASON = "every P30D"


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def quiet(_: object) -> None:
    """Nobody is woken."""


def named(policy: Policy, slug: str = "own") -> RotationPolicy:
    row, _ = RotationPolicy.objects.update_or_create(
        slug=slug, defaults={"document": to_json(policy), "created_at": NOW}
    )
    return row


def due_key(furniture: Furniture, policy: Policy = SWIFT, environment: str = "prod") -> KeySchedule:
    """A key that follows this policy and is due now."""
    key = furniture.key(environment)
    policies.assign_policy(SYSTEM, key, named(policy), now=NOW)
    KeySchedule.objects.filter(key=key).update(next_rotation_at=NOW)
    return KeySchedule.objects.get(key=key)


def finish(rotation: Rotation, now: datetime) -> Rotation:
    """Beats and workers until it is over."""
    for _ in range(40):
        while pending := Operation.objects.filter(state="pending", retry_at__lte=now).first():
            operations.perform(pending.id, now, ring=quiet)
        rotation.refresh_from_db()
        if not rotation.is_open:
            return rotation
        now += timedelta(seconds=20)
        ticking.tick(now, ring=quiet)
    raise AssertionError(f"still {rotation.stage}: {rotation.waiting_for} {rotation.attention_reason}")


def reload(schedule: KeySchedule) -> KeySchedule:
    return KeySchedule.objects.get(pk=schedule.pk)


# Starting what is due -------------------------------------------------------------------------------


def test_of_two_schedulers_that_saw_the_same_row_one_goes_on(furniture: Furniture) -> None:
    first = due_key(furniture)
    second = reload(first)
    started = scheduling.start_one(first, NOW, ring=quiet)
    assert started is not None
    events = AuditEvent.objects.count()
    assert scheduling.start_one(second, NOW, ring=quiet) is None
    assert Rotation.objects.count() == 1
    row = reload(first)
    assert (row.next_rotation_at, row.held_code, row.held_reason) == (NOW, "", "")
    assert AuditEvent.objects.count() == events, "the second one has not even tried"


def test_a_start_that_breaks_loses_no_date(furniture: Furniture) -> None:
    schedule = due_key(furniture)
    RotationPolicy.objects.filter(slug="own").update(document={"steps": "broken"})
    with pytest.raises(ValueError, match="steps"):
        scheduling.start_due(NOW, ring=quiet)
    row = reload(schedule)
    assert (row.next_rotation_at, row.held_until) == (NOW, None), "nothing of it was kept"


def test_a_rotation_tells_what_set_its_date(furniture: Furniture) -> None:
    due_key(furniture)
    scheduling.start_due(NOW, ring=quiet)
    rotation = Rotation.objects.get()
    assert (rotation.trigger, rotation.reason, rotation.requested_by) == ("schedule", START_REASON, "keyturn")


def test_a_due_key_whose_rotation_is_open_is_skipped_and_says_why(furniture: Furniture) -> None:
    schedule = due_key(furniture)
    rotation = starting.start(SYSTEM, schedule.key, now=NOW, ring=quiet)
    assert scheduling.start_due(NOW, ring=quiet) == []
    row = reload(schedule)
    assert row.next_rotation_at == NOW
    assert (row.held_code, row.held_until) == ("rotation_in_progress", NOW + HOUR)
    assert "2026-03-02 09:00 UTC is still open (deploy)" in row.held_reason
    assert scheduling.start_due(NOW + HOUR, ring=quiet) == []
    assert AuditEvent.objects.filter(name="schedule:held").count() == 1, "once, not at every look"
    finish(rotation, NOW + HOUR)
    row = reload(schedule)
    assert (row.held_code, row.held_until) == ("", None)
    assert row.next_rotation_at is not None
    assert row.next_rotation_at > NOW + 28 * DAY


def test_a_due_key_outside_its_window_waits_for_the_opening(furniture: Furniture) -> None:
    night = Window(("mon",), time(22), time(4), "Europe/Berlin")
    schedule = due_key(furniture, replace(SWIFT, windows=(night,)))
    opening = NOW.replace(hour=21)
    assert scheduling.start_due(NOW, ring=quiet) == []
    row = reload(schedule)
    assert (row.held_code, row.held_until, row.next_rotation_at) == ("window", opening, NOW)
    assert "Mon 22:00 Europe/Berlin" in row.held_reason
    with_nothing_to_do = AuditEvent.objects.count()
    assert scheduling.start_due(opening - timedelta(seconds=1), ring=quiet) == []
    assert AuditEvent.objects.count() == with_nothing_to_do
    assert len(scheduling.start_due(opening, ring=quiet)) == 1


def test_a_frozen_key_waits_for_the_end_of_the_freeze(furniture: Furniture) -> None:
    holidays = Freeze(NOW - DAY, NOW + 20 * DAY, "holidays")
    schedule = due_key(furniture, replace(SWIFT, freezes=(holidays,)))
    scheduling.start_due(NOW, ring=quiet)
    assert reload(schedule).held_until == holidays.end
    assert len(scheduling.start_due(holidays.end, ring=quiet)) == 1


# Rehearsal ------------------------------------------------------------------------------------------

REHEARSED = replace(SWIFT, rehearsal=30 * DAY)


def protect(slug: str = "prod") -> None:
    Environment.objects.filter(slug=slug).update(protected=True)


def lead(furniture: Furniture, name: str = "ann") -> Any:
    user = User.objects.create(username=name)
    people.set_member(SYSTEM, furniture.team, username=name, role=Role.LEAD, now=NOW)
    return actor_for(user)


def test_a_protected_environment_waits_for_its_rehearsal(furniture: Furniture) -> None:
    protect()
    schedule = due_key(furniture, REHEARSED)
    assert scheduling.start_due(NOW, ring=quiet) == []
    row = reload(schedule)
    assert row.held_code == "rehearsal"
    assert "was not rotated in a lower environment within the last P30D" in row.held_reason
    with pytest.raises(KeyturnError) as refusal:
        starting.start(lead(furniture), schedule.key, now=NOW, ring=quiet)
    assert refusal.value.code == "rehearsal_required"

    lower = furniture.key("staging")
    done = finish(starting.start(SYSTEM, lower, policy=named(SWIFT, "swift"), now=NOW, ring=quiet), NOW)
    assert done.stage == "succeeded"
    assert done.finished_at is not None
    late = done.finished_at + 30 * DAY
    assert scheduling.start_due(late, ring=quiet) == [], "too long ago"
    assert len(scheduling.start_due(late + HOUR, ring=quiet)) == 0
    Rotation.objects.filter(pk=done.pk).update(finished_at=late)
    KeySchedule.objects.filter(key=lower).delete()
    assert len(scheduling.start_due(late + 2 * HOUR, ring=quiet)) == 1


@pytest.mark.parametrize("poor", ["emergency", "another service", "cancelled", "higher", "first version"])
def test_what_is_no_rehearsal(furniture: Furniture, poor: str) -> None:
    protect()
    protect("staging")
    schedule = due_key(furniture, REHEARSED, "staging")
    other = furnish() if poor == "another service" else furniture
    lower = other.key("prod" if poor == "higher" else "dev")
    policy = RotationPolicy.objects.get(slug="emergency") if poor == "emergency" else named(SWIFT, "swift")
    rotation = starting.start(SYSTEM, lower, policy=policy, now=NOW, ring=quiet)
    if poor == "cancelled":
        rotation = verbs.abort(SYSTEM, rotation.id, reason="no", now=NOW, ring=quiet)
    done = finish(rotation, NOW)
    if poor == "first version":
        Rotation.objects.filter(pk=done.pk).update(outgoing=None)
    assert scheduling.start_due(NOW + HOUR, ring=quiet) == []
    assert reload(schedule).held_code == "rehearsal"


def test_a_lead_may_start_without_and_then_somebody_else_approves(furniture: Furniture) -> None:
    protect()
    key = due_key(furniture, REHEARSED).key
    ann = lead(furniture)
    with pytest.raises(KeyturnError) as silent:
        starting.start(ann, key, skip_rehearsal=True, now=NOW, ring=quiet)
    assert "reason" in silent.value.fields
    rotation = starting.start(ann, key, skip_rehearsal=True, reason="no staging", now=NOW, ring=quiet)
    assert (rotation.stage, rotation.waiting_code) == ("requested", "approval_start")
    operator = User.objects.create(username="op")
    people.set_member(SYSTEM, furniture.team, username="op", role=Role.OPERATOR, now=NOW)
    Rotation.objects.filter(pk=rotation.pk).update(stage="cancelled", finished_at=NOW)
    with pytest.raises(KeyturnError) as refusal:
        starting.start(
            actor_for(operator), key, skip_rehearsal=True, reason="no staging", now=NOW, ring=quiet
        )
    assert refusal.value.code == "permission_denied"


def test_an_emergency_needs_no_rehearsal(furniture: Furniture) -> None:
    protect()
    key = due_key(furniture, REHEARSED).key
    RotationPolicy.objects.filter(slug="emergency").update(
        document=to_json(replace(EMERGENCY, rehearsal=DAY))
    )
    policy = RotationPolicy.objects.get(slug="emergency")
    assert starting.start(SYSTEM, key, policy=policy, now=NOW, ring=quiet).stage == "deploy"


# Exposure -------------------------------------------------------------------------------------------


def reveal(furniture: Furniture, key: Key, name: str = "ann") -> Any:
    who = lead(furniture, name)
    keys.reveal(who, key, reason="debugging", now=NOW)
    return who


def calm_key(furniture: Furniture, policy: Policy | None = None) -> KeySchedule:
    key = furniture.key()
    chosen = named(policy) if policy else RotationPolicy.objects.get(slug="standard")
    return policies.assign_policy(SYSTEM, key, chosen, now=NOW)


def test_a_revealed_key_is_due_in_a_week_and_says_why(furniture: Furniture) -> None:
    schedule = calm_key(furniture)
    reveal(furniture, schedule.key)
    assert exposure.look(NOW) == 1
    row = reload(schedule)
    assert (row.next_rotation_at, row.trigger) == (NOW + 7 * DAY, "revealed")
    assert row.reason == "revealed by ann: debugging"
    event = AuditEvent.objects.get(name="schedule:brought-forward")
    assert event.details["trigger"] == "revealed"
    assert exposure.look(NOW) == 0, "told once"
    assert len(scheduling.start_due(NOW + 7 * DAY, ring=quiet)) == 1
    assert Rotation.objects.get().trigger == "revealed"


def test_once_replaced_it_is_forgotten(furniture: Furniture) -> None:
    schedule = calm_key(furniture, replace(SWIFT, exposure={"revealed": timedelta(0)}))
    reveal(furniture, schedule.key)
    ticking.tick(NOW, ring=quiet)
    done = finish(Rotation.objects.get(), NOW)
    assert (done.stage, done.trigger) == ("succeeded", "revealed")
    row = reload(schedule)
    assert row.trigger == "schedule"
    assert row.next_rotation_at is not None
    assert row.next_rotation_at > NOW + 28 * DAY
    User.objects.filter(username="ann").update(is_active=False)
    assert exposure.look(NOW) == 0, "ann knows nothing that is in use"


@pytest.mark.parametrize("how", ["removed", "deactivated", "deleted"])
def test_whoever_saw_it_and_leaves_brings_the_date_to_tomorrow(furniture: Furniture, how: str) -> None:
    schedule = calm_key(furniture)
    reveal(furniture, schedule.key)
    exposure.look(NOW)
    later = NOW + DAY
    if how == "removed":
        people.remove_member(SYSTEM, furniture.team, username="ann", now=later)
    elif how == "deactivated":
        User.objects.filter(username="ann").update(is_active=False)
    else:
        User.objects.filter(username="ann").delete()
    assert exposure.look(later) == 1
    row = reload(schedule)
    assert (row.next_rotation_at, row.trigger) == (later + DAY, "member_left")
    assert row.reason == "ann has seen it and left the team"
    assert exposure.look(later + HOUR) == 0


def test_who_stays_in_sight_of_the_team_has_not_left(furniture: Furniture) -> None:
    reveal(furniture, calm_key(furniture).key)
    exposure.look(NOW)
    User.objects.filter(username="ann").update(organisation_role=OrganisationRole.ADMIN)
    Membership.objects.all().delete()
    assert exposure.look(NOW) == 0


def test_who_leaves_without_having_seen_it_changes_nothing(furniture: Furniture) -> None:
    schedule = calm_key(furniture)
    lead(furniture)
    people.remove_member(SYSTEM, furniture.team, username="ann", now=NOW)
    assert exposure.look(NOW) == 0
    assert reload(schedule).trigger == "schedule"


def test_a_reported_version_is_due_at_once(furniture: Furniture) -> None:
    schedule = calm_key(furniture)
    key = keys.lock_key(schedule.key_id)
    assert key.current is not None
    key.current.key = key
    keys.mark_compromised(SYSTEM, key, key.current, reason="in a build log", now=NOW)
    ticking.tick(NOW, ring=quiet)
    rotation = Rotation.objects.get()
    assert (rotation.trigger, rotation.reason) == ("reported", "reported as known to others: in a build log")


def test_a_policy_may_not_mind(furniture: Furniture) -> None:
    schedule = calm_key(furniture, FAST)
    before = schedule.next_rotation_at
    reveal(furniture, schedule.key)
    assert exposure.look(NOW) == 1
    assert reload(schedule).next_rotation_at == before
    assert Exposure.objects.count() == 1, "it is kept for another policy"
    policies.assign_policy(SYSTEM, schedule.key, RotationPolicy.objects.get(slug="standard"), now=NOW)
    assert reload(schedule).trigger == "revealed"


def test_a_date_is_never_put_back(furniture: Furniture) -> None:
    schedule = calm_key(furniture)
    KeySchedule.objects.update(next_rotation_at=NOW + DAY)
    reveal(furniture, schedule.key)
    exposure.look(NOW)
    row = reload(schedule)
    assert (row.next_rotation_at, row.trigger) == (NOW + DAY, "schedule")


def test_a_key_without_a_schedule_gets_one(furniture: Furniture) -> None:
    key = furniture.key()
    reveal(furniture, key)
    exposure.look(NOW)
    assert KeySchedule.objects.get(key=key).next_rotation_at == NOW + 7 * DAY


def test_a_version_that_is_being_replaced_needs_no_date_until_that_fails(furniture: Furniture) -> None:
    schedule = calm_key(furniture)
    rotation = starting.start(SYSTEM, schedule.key, now=NOW, ring=quiet)
    reveal(furniture, schedule.key)
    exposure.look(NOW)
    assert reload(schedule).trigger == "schedule"
    verbs.abort(SYSTEM, rotation.id, reason="not now", now=NOW, ring=quiet)
    while pending := Operation.objects.filter(state="pending").first():
        operations.perform(pending.id, NOW, ring=quiet)
    rotation.refresh_from_db()
    assert not rotation.is_open
    row = reload(schedule)
    assert (row.trigger, row.next_rotation_at) == ("revealed", NOW + 7 * DAY)


# Expiry and age -------------------------------------------------------------------------------------


def added(furniture: Furniture, policy: Policy, **more: Any) -> KeySchedule:
    key = adding.add_key(
        SYSTEM, furniture.service, furniture.environment(), secret=fresh_secret(), policy=named(policy),
        now=NOW, **more,
    ).key  # fmt: skip
    return KeySchedule.objects.get(key=key)


def test_a_key_that_expires_is_due_a_deadline_earlier(furniture: Furniture) -> None:
    ends = NOW + 20 * DAY
    schedule = added(furniture, replace(SWIFT, deadline=7 * DAY), expires_at=ends)
    assert (schedule.next_rotation_at, schedule.trigger) == (ends - 7 * DAY, "expiry")
    assert schedule.reason == "the provider lets it expire at 2026-03-22 09:00 UTC"


def test_the_age_of_an_imported_key_counts_from_its_import(furniture: Furniture) -> None:
    schedule = added(furniture, replace(SWIFT, deadline=2 * DAY, max_age=15 * DAY))
    assert (schedule.next_rotation_at, schedule.trigger) == (NOW + 13 * DAY, "max_age")
    assert reread(schedule.key).current is not None


def test_an_expiry_in_the_past_is_refused(furniture: Furniture) -> None:
    with pytest.raises(KeyturnError) as refusal:
        added(furniture, SWIFT, expires_at=NOW)
    assert "expires_at" in refusal.value.fields


def test_after_a_failed_rotation_nothing_starts_for_a_day(furniture: Furniture) -> None:
    schedule = added(furniture, SWIFT, expires_at=NOW + DAY)
    KeySchedule.objects.update(next_rotation_at=NOW)
    (rotation_id,) = scheduling.start_due(NOW, ring=quiet)
    verbs.abort(SYSTEM, rotation_id, reason="not now", now=NOW, ring=quiet)
    while pending := Operation.objects.filter(state="pending").first():
        operations.perform(pending.id, NOW, ring=quiet)
    row = reload(schedule)
    assert (row.trigger, row.next_rotation_at) == ("expiry", NOW + DAY)
