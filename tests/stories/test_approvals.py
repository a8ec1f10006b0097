"""Approvals: who may give them, for which transition, under which plan, and when they stop to count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.domain import Role
from keyvault.exceptions import KeyturnError
from keyvault.models import Membership, User
from keyvault.services import people
from rotation.approvals import approvals_of, counted
from rotation.models import Approval, Rotation
from rotation.plan import plan
from rotation.planned import rotation_digest
from rotation.policy import Policy, from_json, to_json
from rotation.proof import offenders
from rotation.services import approving, starting, verbs
from tests.stories.conftest import BRISK
from tests.stories.world import World

Build = Callable[..., World]
HOUR = timedelta(hours=1)


def person(w: World, name: str, role: Role = Role.LEAD, email: str = "") -> Actor:
    user = User.objects.create(username=name, email=email)
    people.set_member(SYSTEM, w.team, username=name, role=role, now=w.now)
    return actor_for(user)


def careful(**needed: int) -> Policy:
    return replace(BRISK, approvals=needed)


def approve(w: World, who: Actor, **more: Any) -> Rotation:
    return approving.approve(who, w.rotation.id, reason="looks right", now=w.now, ring=w.rung.append, **more)


def refused(w: World, who: Actor, **more: Any) -> str:
    with pytest.raises(KeyturnError) as refusal:
        approve(w, who, **more)
    return refusal.value.code


def requested(world: Build, needed: int = 1) -> tuple[World, Actor]:
    """A rotation that ann asked for, and that waits for approvals."""
    w = world(policy=replace(BRISK, approvals={"start": needed}, deadline=timedelta(days=7)))
    ann = person(w, "ann")
    starting.start(ann, w.key, policy=w.policy, now=w.now, ring=w.rung.append)
    assert w.rotation.waiting_code == "approval_start"
    return w, ann


def counts(w: World, transition: str = "start") -> int:
    return counted(approvals_of(w.rotation, w.now), transition)


def lapsed(w: World) -> str:
    (approval,) = approvals_of(w.rotation, w.now)
    return approval.lapsed


# By whom --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "email"), [("Ann", ""), ("second", "ann@example.org"), ("ANN@example.org", "")]
)
def test_nobody_approves_what_they_asked_for_under_another_account_either(
    world: Build, name: str, email: str
) -> None:
    w, ann = requested(world)
    User.objects.filter(username="ann").update(email="Ann@Example.org")
    alias = person(w, name, email=email)
    assert refused(w, ann) == refused(w, alias) == "permission_denied"
    assert not Approval.objects.exists()
    assert w.rotation.stage == "requested"


def test_who_is_renamed_is_the_same_person_still(world: Build) -> None:
    w, ann = requested(world)
    user = User.objects.get(username="ann")
    user.username = "anna"
    user.save()
    assert refused(w, actor_for(user)) == "permission_denied"


def test_keyturn_itself_approves_nothing(world: Build) -> None:
    w, _ = requested(world)
    assert refused(w, SYSTEM) == "permission_denied"


def test_two_approvals_of_one_person_count_once(world: Build) -> None:
    w, _ = requested(world, needed=2)
    bob = person(w, "bob")
    approve(w, bob)
    approve(w, bob)
    assert counts(w) == 1
    approve(w, person(w, "BOB"))
    assert counts(w) == 1
    assert w.rotation.stage == "requested"
    approve(w, person(w, "cem"))
    assert w.rotation.stage == "deploy"


@pytest.mark.parametrize("how", ["deactivated", "left", "viewer"])
def test_who_approved_must_still_be_allowed_to_when_it_is_used(world: Build, how: str) -> None:
    w, _ = requested(world, needed=2)
    bob = person(w, "bob")
    approve(w, bob)
    if how == "deactivated":
        User.objects.filter(username="bob").update(is_active=False)
        reason = "bob is not active any more"
    elif how == "left":
        people.remove_member(SYSTEM, w.team, username="bob", now=w.now)
        reason = "bob may not operate this key any more"
    else:
        Membership.objects.filter(user__username="bob").update(role="viewer")
        reason = "bob may not operate this key any more"
    assert lapsed(w) == reason
    approve(w, person(w, "cem"))
    assert w.rotation.stage == "requested"
    assert reason in w.rotation.waiting_for


# For how long, and for what -------------------------------------------------------------------------


def test_an_approval_expires_after_a_day(world: Build) -> None:
    w, _ = requested(world, needed=2)
    approve(w, person(w, "bob"))
    w.now += 24 * HOUR - timedelta(seconds=1)
    assert counts(w) == 1
    w.now += timedelta(seconds=1)
    assert counts(w) == 0
    approve(w, person(w, "cem"))
    assert w.rotation.stage == "requested"
    assert "the approval of bob has expired" in w.rotation.waiting_for


def test_an_approval_of_another_plan_does_not_count_and_says_so(world: Build) -> None:
    w, _ = requested(world, needed=2)
    approve(w, person(w, "bob"))
    seen = rotation_digest(w.rotation)
    Rotation.objects.update(policy=to_json(replace(BRISK, approvals={"start": 2}, monitor=HOUR)))
    assert rotation_digest(w.rotation) != seen
    assert lapsed(w) == "the approval of bob was given for another plan"
    cem = person(w, "cem")
    assert refused(w, cem, plan=seen) == "precondition_failed"
    approve(w, cem, plan=rotation_digest(w.rotation))
    assert w.rotation.stage == "requested"
    assert "given for another plan" in w.rotation.waiting_for
    approve(w, actor_for(User.objects.get(username="bob")))
    assert w.rotation.stage == "deploy"


def test_a_provider_that_is_asked_for_something_else_is_another_plan(world: Build) -> None:
    w, _ = requested(world, needed=2)
    approve(w, person(w, "bob"))
    w.provider.driver_config = {n: v for n, v in w.provider.driver_config.items() if n != "disable"}
    w.provider.save()
    assert lapsed(w) == "the approval of bob was given for another plan"


def test_the_plan_has_one_digest_before_and_after_it_starts_and_to_its_end(world: Build) -> None:
    w = world()
    before = plan(w.key, BRISK, "policy", now=w.now).digest
    assert plan(w.key, BRISK, "policy", now=w.now + HOUR).digest == before
    assert plan(w.key, replace(BRISK, monitor=HOUR), "policy", now=w.now).digest != before
    w.start()
    for stage in ("shift", "monitor", "revoke", "succeeded"):
        w.run_to(stage)
        assert rotation_digest(w.rotation) == before, stage
    assert plan(w.key, BRISK, "policy", now=w.now).digest != before, "another version goes out"


def test_a_start_may_demand_the_plan_that_was_looked_at(world: Build) -> None:
    w = world()
    seen = plan(w.key, BRISK, w.policy.slug, now=w.now).digest
    w.policy.document = to_json(replace(BRISK, monitor=HOUR))
    w.policy.save()
    with pytest.raises(KeyturnError) as refusal:
        w.start(digest=seen)
    assert refusal.value.code == "precondition_failed"
    w.start(digest=plan(w.key, w.policy.value, w.policy.slug, now=w.now).digest)


# Which transition -----------------------------------------------------------------------------------


def test_each_transition_needs_its_own_approval(world: Build) -> None:
    w = world(policy=careful(start=1, shift_past_50=1, revoke=1))
    bob = person(w, "bob")
    w.start()
    for code, stage in (("start", "requested"), ("shift_past_50", "shift"), ("revoke", "monitor")):
        waits = f"approval_{code}"
        w.run(partial(waiting_for, w, waits))
        assert w.rotation.stage == stage
        if code == "shift_past_50":
            w.tick()
            assert w.rotation.weight == 50
        approve(w, bob)
        assert not waiting_for(w, waits)
    w.run_to("succeeded")
    assert w.failures == {}
    assert list(Approval.objects.order_by("created_at").values_list("transition", flat=True)) == [
        "start",
        "shift_past_50",
        "revoke",
    ]


def waiting_for(w: World, code: str) -> bool:
    return w.rotation.waiting_code == code


def force(w: World, who: Actor) -> str:
    count = len(offenders(w.rotation, from_json(w.rotation.policy), w.now))
    try:
        verbs.force_revoke(
            who, w.rotation.id, reason="now", offender_count=count, now=w.now, ring=w.rung.append
        )
    except KeyturnError as error:
        return error.code
    return ""


def test_forcing_needs_an_approval_of_its_own_that_is_not_ones_own(world: Build) -> None:
    w = world(policy=careful(revoke=1))
    ann, bob = person(w, "ann"), person(w, "bob")
    w.start()
    w.run_to("monitor")
    assert force(w, ann) == "approval_required"
    approve(w, bob, transition="revoke")
    assert force(w, ann) == "approval_required", "an approval to revoke is none to force"
    approve(w, ann, transition="force")
    assert force(w, ann) == "approval_required", "one's own does not count"
    w.now += HOUR
    approve(w, bob)
    assert Approval.objects.filter(transition="force").count() == 2, "what it is for by default"
    assert w.rotation.stage == "monitor"
    assert force(w, bob) == "", "ann approved"
    assert w.rotation.stage == "revoke"


def test_a_policy_may_ask_for_more_people_to_force(world: Build) -> None:
    w = world(policy=careful(force=2))
    ann, bob, cem = (person(w, name) for name in ("ann", "bob", "cem"))
    w.start()
    w.run_to("monitor")
    approve(w, bob)
    assert force(w, ann) == "approval_required"
    approve(w, cem)
    w.now += 24 * HOUR
    approve(w, bob)
    assert force(w, ann) == "approval_required", "the one of cem has expired"
    approve(w, cem)
    assert force(w, ann) == ""


# More time ------------------------------------------------------------------------------------------


def test_a_rotation_that_is_held_at_its_deadline_may_get_more_time(world: Build) -> None:
    w = world(policy=replace(BRISK, deadline=timedelta(minutes=20)))
    w.start()
    w.run_to("monitor")
    laggard = w.instances[0]
    old = w.version(1)
    w.run(lambda: w.rotation.waiting_code == "quiet" or w.report(laggard, old.number, {"ok": 1}) is None)
    w.run(lambda: w.rotation.attention == "stragglers" or not w.report(laggard, old.number, {"ok": 1}))
    assert "extend" in w.rotation.attention_verbs
    late = w.now
    w.verb("extend", by=HOUR)
    assert w.rotation.attention == ""
    assert w.rotation.deadline_at == late + HOUR
    assert w.events()[-1] == "extended"
    w.run_to("succeeded")
    assert w.failures == {}


@pytest.mark.parametrize("by", [timedelta(0), timedelta(days=-1), timedelta(days=30, seconds=1)])
def test_more_time_is_some_time_and_has_an_end(world: Build, by: timedelta) -> None:
    w = world()
    w.start()
    with pytest.raises(KeyturnError) as refusal:
        w.verb("extend", by=by)
    assert "by" in refusal.value.fields


def test_an_extension_before_the_deadline_counts_from_the_deadline(world: Build) -> None:
    w = world()
    deadline = w.start().deadline_at
    assert w.verb("extend", by=HOUR).deadline_at == deadline + HOUR
