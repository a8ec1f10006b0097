"""A provider that allows one key at a time: the old one ends, then the new one is made. The gap is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyvault.actors import SYSTEM
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent
from rotation.facts import Kind
from rotation.models import KeySchedule, Operation, Rotation, RotationPolicy
from rotation.plan import no_room, plan
from rotation.policy import Policy, Step, to_json
from rotation.services import emergencies, policies, radius, scheduling
from rotation.services.saying import verbs_of
from rotation.simulators import RunningSimulator
from tests.stories.conftest import BRISK, MINUTE
from tests.stories.world import World

Build = Callable[..., World]
CUTOVER = replace(BRISK, steps=(Step(100, MINUTE),), cutover=True)


def narrow(w: World) -> World:
    """From now on the provider allows one key, and says so."""
    w.control.set_fault(max_keys=1)
    w.provider.max_keys = 1
    w.provider.save()
    return w


@pytest.fixture
def one(world: Build) -> World:
    w = world(policy=CUTOVER)
    w.tick()
    return narrow(w)


def calls(w: World) -> list[str]:
    made = Operation.objects.filter(rotation=w.rotation).exclude(kind=Kind.PROBE).order_by("created_at")
    return [f"{kind} {side}" for kind, side in made.values_list("kind", "side")]


def nobody_is_served(w: World) -> bool:
    w.desk.forget()
    with pytest.raises(KeyturnError) as answer:
        w.desk.choose(w.service.slug, w.environment.slug, "web-0", w.now)
    return answer.value.code == "no_active_version"


def test_the_old_key_ends_then_the_new_one_is_made(one: World) -> None:
    w = one
    told = plan(w.key, w.policy.value, w.policy.slug, now=w.now)
    assert "There will be a moment without a key: v1 is revoked before v2 exists" in told.gap
    assert [call.operation for call in told.calls] == ["revoke", "issue", "verify", "confirm"]
    assert [unmet.code for unmet in told.unmet] == []
    assert len({at for _, at in told.stages}) == 1

    w.start()
    w.run_to("succeeded", traffic=False)
    w.tick()
    assert calls(w) == ["revoke outgoing", "issue incoming", "verify incoming", "confirm outgoing"]
    assert not w.honoured(1)
    assert w.honoured(2)
    assert w.failures == {}
    assert {instance.version for instance in w.instances} == {2}
    names = w.events()
    assert names.index("gap") < names.index("gap:over") < names.index("finished")
    asked, over = (w.rotation.events.get(name=name).at for name in ("gap", "gap:over"))
    told_seconds = AuditEvent.objects.get(name="rotation:gap:over").details["seconds"]
    assert told_seconds == int((over - asked).total_seconds())


def test_in_the_gap_nobody_is_given_a_dead_key_and_there_is_no_way_back(one: World) -> None:
    w = one
    w.start()
    assert w.honoured(1), "asking is not doing"
    assert w.ask(w.instances[0]).number == 1
    w.control.set_fault(issue_delay=1e9)
    w.run(lambda: w.rotation.incoming is not None and w.version(2).ciphertext is not None, traffic=False)
    assert not w.honoured(1)
    assert w.rotation.stage == "deploy"
    assert nobody_is_served(w)
    assert "abort" not in verbs_of(w.rotation)
    with pytest.raises(KeyturnError, match="nothing to go back to"):
        w.verb("abort")
    honour(w, 2)
    w.run_to("succeeded", traffic=False)
    assert w.honoured(2)
    assert AuditEvent.objects.get(name="rotation:gap:over").details["seconds"] > 0


def honour(w: World, number: int) -> None:
    """The provider accepts this key from now on."""
    key = w.control.truth.find(w.secret(number).expose())
    assert key is not None
    key.honoured_from = 0.0


def test_a_lost_answer_to_the_revoke_is_found_out_before_anything_is_made(one: World) -> None:
    w = one
    w.control.set_fault(lose_revoke_answers=1)
    w.start()
    w.tick(traffic=False)
    assert w.version(1).withheld_at is not None, "nobody knows whether it works"
    w.run_to("succeeded", traffic=False)
    assert calls(w)[:3] == ["revoke outgoing", "confirm outgoing", "issue incoming"]
    assert w.honoured(2)


def test_a_new_key_that_is_not_accepted_is_a_persons_business(one: World) -> None:
    w = one
    w.control.set_fault(issue_delay=1e9)
    w.start()
    w.run(lambda: w.rotation.attention == "rejected", traffic=False)
    assert w.rotation.attention_verbs == ["resume", "advance"]
    assert nobody_is_served(w)
    honour(w, 2)
    w.verb("resume")
    w.run_to("succeeded", traffic=False)
    assert w.honoured(2)


def test_another_key_in_the_way_is_waited_for_and_then_told(one: World) -> None:
    w = one
    w.control.set_fault(max_keys=2)
    w.control.create_key("somebody's")
    w.control.set_fault(max_keys=1)
    w.start()
    w.tick(traffic=False)
    w.tick(traffic=False)
    issue = Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)
    assert (issue.state, issue.outcome) == ("pending", "quota_full"), "the old one may not be counted out yet"
    w.run(lambda: w.rotation.attention == "quota_full", traffic=False)
    assert w.rotation.attention_verbs == ["resume", "supply"]
    views = w.control.keys()
    foreign = next(view.id for view in views if view.label == "somebody's")
    held = w.control.truth.find_by_id(foreign)
    assert held is not None
    assert held.state == "live", "what is not ours is never touched"
    w.control.set_fault(max_keys=2)
    w.verb("resume")
    w.run_to("succeeded", traffic=False)


def test_without_a_policy_that_allows_the_gap_nothing_starts(world: Build) -> None:
    w = narrow(world())
    (unmet,) = plan(w.key, w.policy.value, w.policy.slug, now=w.now).unmet
    assert (unmet.code, unmet.blocking) == ("quota", True)
    assert "Use a policy that allows this gap (cutover)" in unmet.message
    with pytest.raises(KeyturnError) as refused:
        w.start()
    assert (refused.value.code, refused.value.message) == ("invalid_transition", unmet.message)
    policies.assign_policy(SYSTEM, w.key, w.policy, now=w.now)
    KeySchedule.objects.update(next_rotation_at=w.now)
    assert scheduling.start_due(w.now, ring=w.rung.append) == []
    held = KeySchedule.objects.get()
    assert (held.held_code, held.held_reason) == ("quota", unmet.message)
    assert not Rotation.objects.exists()
    assert w.honoured(1)


def test_the_preset_waits_for_another_person(one: World) -> None:
    w = one
    w.policy.document = to_json(RotationPolicy.objects.get(slug="cutover").value)
    w.policy.save()
    w.start()
    w.tick()
    assert w.rotation.waiting_code == "approval_start"
    assert w.honoured(1)
    w.verb("abort")
    assert w.rotation.stage == "cancelled"
    assert w.honoured(1)


def test_a_key_that_a_person_replaces_in_place(db: None, dashboard: RunningSimulator, settings: Any) -> None:
    w = narrow(World(dashboard, settings, policy=CUTOVER, driver="manual"))
    told = plan(w.key, w.policy.value, w.policy.slug, now=w.now)
    assert "v1 ends when it is replaced on the provider's page" in told.gap
    w.start()
    w.tick()
    assert w.rotation.attention == "replace_key"
    assert w.honoured(1), "it works until somebody replaces it"
    w.control.revoke(w.version(1).provider_key_id)
    made = w.control.create_key("by hand")
    w.verb("supply", secret=made.value)
    w.run(lambda: w.key.current is not None and w.key.current.number == 2, traffic=False)
    assert w.rotation.no_fallback
    w.run(lambda: w.rotation.attention == "confirm_revoked", step=30)
    w.verb("confirm_revoked")
    w.run_to("succeeded", step=30)
    assert w.honoured(2)
    assert w.failures == {}


@pytest.mark.parametrize("mode", emergencies.MODES)
def test_a_leak_where_only_one_key_can_exist(world: Build, mode: str) -> None:
    w = narrow(world())
    targets, tokens, subject = radius.chosen(SYSTEM, "service", w.service.slug)
    drawn = radius.radius(SYSTEM, targets, tokens, scope="service", subject=subject, mode=mode, now=w.now)
    assert drawn.keys[0].gap
    emergencies.emergency(
        SYSTEM, w.key, mode=mode, reason="leaked", typed=str(w.key), now=w.now, ring=w.rung.append
    )
    w.run(lambda: not Rotation.objects.open().exists(), traffic=False)
    assert not w.honoured(1)
    assert w.key.current is not None
    assert w.honoured(w.key.current.number)
    assert calls(w)[:2] == ["revoke outgoing", "issue incoming"]


def test_a_leak_in_the_gap_leaves_the_cutover_one(one: World) -> None:
    w = one
    w.control.set_fault(planes=["manage"], error_rate=1.0)
    w.start()
    emergencies.emergency(SYSTEM, w.key, mode="replace", reason="leaked", now=w.now, ring=w.rung.append)
    w.control.clear_faults()
    narrow(w)
    w.run(lambda: not Rotation.objects.open().exists(), traffic=False)
    assert calls(w)[:2] == ["revoke outgoing", "issue incoming"]
    assert w.honoured(2)


def test_what_cannot_be_a_cutover(world: Build) -> None:
    world()
    steps = [{"weight": 50, "hold": "PT1M"}, {"weight": 100, "hold": "PT1M"}]
    eyes = {"start": 1, "revoke": 0}
    for field, document in (
        ("steps", {"cutover": True, "steps": steps, "approvals": eyes}),
        ("approvals", {"cutover": True, "steps": steps[1:]}),
        ("cutover", {"cutover": "yes", "steps": steps[1:], "approvals": eyes}),
    ):
        with pytest.raises(KeyturnError) as refused:
            policies.read_policy(document)
        assert refused.value.fields.keys() == {field}
    good = policies.read_policy({"cutover": True, "steps": steps[1:], "approvals": eyes})
    assert isinstance(good, Policy)
    assert good.cutover


def test_a_rotation_with_a_second_key_is_untouched_by_all_this(world: Build) -> None:
    w = world()
    assert plan(w.key, w.policy.value, w.policy.slug, now=w.now).gap == ""
    assert no_room(w.key, w.policy.value) == ""
    w.provider.max_keys = 2
    w.provider.save()
    assert no_room(w.key, w.policy.value) == ""
    w.start()
    w.run_to("shift")
    assert "gap" not in w.events()
    assert w.now - w.rotation.created_at < timedelta(minutes=5)
