"""A drill: rotate, rotate and roll back, look at the provider; in hours that pass in a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyvault.actors import SYSTEM, Actor
from keyvault.crypto.evidence import verify_evidence
from keyvault.exceptions import KeyturnError
from keyvault.models import Environment, Heartbeat, Provider
from keyvault.services import keys
from rotation.management.simulated import simulated_key
from rotation.models import KeySchedule, Rotation
from rotation.policy import Policy
from rotation.services import drill
from rotation.services.evidence import evidence_of
from rotation.simulators import RunningSimulator
from tests.evidence import public_key_set
from tests.stories.world import World

Build = Callable[..., World]


class Pace(drill.Pace):
    """Time passes when the drill waits, and consumers work meanwhile. Notes what the drill tells."""

    def __init__(self, w: World, *, traffic: bool = True) -> None:
        self.told: list[tuple[str, str]] = []
        self.watch: Callable[[Rotation], None] = lambda rotation: None

        def wait(seconds: float) -> None:
            w.now += timedelta(seconds=max(seconds, 10))
            if traffic:
                w.traffic()

        def tell(rotation: Rotation) -> None:
            self.told.append((rotation.id.hex, rotation.stage))
            self.watch(rotation)

        super().__init__(lambda: w.now, wait, tell)


def test_a_drill_proves_a_rotation_and_a_rollback(world: Build) -> None:
    w = world(environment="dev")
    pace = Pace(w)
    report = drill.rehearse(SYSTEM, w.key, w.policy, pace)
    assert [finding.name for finding in report.findings if not finding.good] == []
    assert report.good
    assert len(report.findings) == 7
    first, second = (Rotation.objects.get(pk=one) for one in report.rotations)
    assert (first.stage, second.stage) == ("succeeded", "rolled_back")
    assert w.failures == {}
    assert [w.honoured(number) for number in (1, 2, 3)] == [False, True, False]
    assert {stage for one, stage in pace.told if one == second.id.hex} >= {"deploy", "rolled_back"}
    for rotation in (first, second):
        document = evidence_of(rotation)
        assert verify_evidence(document, public_key_set())
        assert document["rotation"]["settled"] is True
    last = {one["side"]: one["outcome"] for one in evidence_of(second)["probes"]}
    assert last == {"outgoing": "accepted", "incoming": "rejected"}


def test_a_key_that_does_not_die_stops_the_drill(world: Build) -> None:
    w = world(environment="dev")
    pace = Pace(w)

    def keep_it_alive(rotation: Rotation) -> None:
        if rotation.stage == "rolled_back":
            w.control.set_fault(revoke_delay=1e9)

    pace.watch = keep_it_alive
    with pytest.raises(drill.DrillStopped) as stopped:
        drill.rehearse(SYSTEM, w.key, w.policy, pace)
    assert stopped.value.rotation.attention == "undead_key"
    assert "undead_key" in str(stopped.value)


def test_a_first_rotation_that_fails_is_told_and_nothing_else_is_tried(world: Build) -> None:
    w = world(environment="dev", instances=12)
    pace = Pace(w)

    def spoil(rotation: Rotation) -> None:
        incoming = rotation.incoming
        if rotation.stage == "shift" and incoming is not None:
            w.control.set_fault(reject_key_id=incoming.provider_key_id)

    pace.watch = spoil
    report = drill.rehearse(SYSTEM, w.key, w.policy, pace)
    assert not report.good
    assert [finding.good for finding in report.findings] == [False, False]
    assert len(report.rotations) == 1
    assert w.honoured(1)


# Refusals ------------------------------------------------------------------------------------------


def test_a_protected_environment_is_never_rehearsed_in(world: Build) -> None:
    w = world(environment="prod")
    Environment.objects.filter(slug="prod").update(protected=True)
    w.key.environment.refresh_from_db()
    with pytest.raises(KeyturnError) as refused:
        drill.choose_key(SYSTEM, w.service.slug, "prod")
    assert refused.value.code == "permission_denied"
    with pytest.raises(KeyturnError) as none:
        drill.choose_key(SYSTEM, w.service.slug, None)
    assert none.value.code == "not_found"
    with pytest.raises(KeyturnError) as again:
        drill.rehearse(SYSTEM, w.key, w.policy, Pace(w))
    assert again.value.code == "permission_denied"
    assert not Rotation.objects.exists()


def test_the_lowest_environment_that_is_not_protected_is_chosen(world: Build) -> None:
    w = world(environment="prod")
    for slug in ("staging", "dev"):
        keys.create_key(SYSTEM, w.service, Environment.objects.get(slug=slug), now=w.now)
    assert drill.choose_key(SYSTEM, w.service.slug, None).environment.slug == "dev"
    assert drill.choose_key(SYSTEM, w.service.slug, "staging").environment.slug == "staging"
    stranger = Actor("user", "stranger", None)
    with pytest.raises(KeyturnError):
        drill.choose_key(stranger, w.service.slug, None)


def test_what_would_stop_for_a_person_is_refused_at_once(world: Build) -> None:
    w = world(environment="dev")
    Provider.objects.filter(pk=w.provider.pk).update(driver="manual", driver_config={})
    with pytest.raises(KeyturnError) as refused:
        drill.rehearse(SYSTEM, w.key, w.policy, Pace(w))
    assert "A person has to create the new key" in refused.value.message
    empty = keys.create_key(SYSTEM, w.service, Environment.objects.get(slug="staging"), now=w.now)
    with pytest.raises(KeyturnError, match="no version yet"):
        drill.rehearse(SYSTEM, empty, w.policy, Pace(w))
    assert not Rotation.objects.exists()


# Who beats -----------------------------------------------------------------------------------------


def test_it_beats_itself_only_where_nobody_else_does(world: Build, settings: object) -> None:
    settings.KEYTURN_HEARTBEAT_MAX_AGE = 30  # type: ignore[attr-defined]
    w = world(environment="dev")
    Heartbeat.objects.create(name="beat", at=w.now)
    w.start()
    pace = Pace(w, traffic=False)
    seen = []
    for _ in range(8):
        pace.pass_on()
        seen.append(w.rotation.stage)
    assert seen[:3] == ["deploy"] * 3, "somebody was seen beating a moment ago"
    assert seen[-1] == "shift"


# A simulated provider ------------------------------------------------------------------------------


def test_a_simulated_provider_stands_in_as_often_as_one_likes(
    db: None, dashboard: RunningSimulator, settings: object, brisk: Policy, free_port: int
) -> None:
    idle = replace(brisk, allow_idle=True)
    w = World(dashboard, settings, policy=idle, driver="manual", environment="dev")
    settings.KEYTURN_EGRESS_ALLOW = frozenset({f"127.0.0.1:{free_port}"})  # type: ignore[attr-defined]
    before = dashboard.control.counters()
    for drills in (1, 2):
        with simulated_key(SYSTEM, w.key, now=w.now) as stand_in:
            assert stand_in.service.slug == f"{w.service.slug}-drill"
            assert drill.rehearse(SYSTEM, stand_in, w.policy, Pace(w, traffic=False)).good
        assert Rotation.objects.filter(key=stand_in).count() == 2 * drills
    assert dashboard.control.counters() == before, "the real provider was left alone"
    assert not KeySchedule.objects.filter(key=stand_in).exists(), "nobody is there to rotate it later"


def test_a_simulator_needs_an_address_that_may_be_called(world: Build, settings: object) -> None:
    w = world(environment="dev")
    for allowed, words in (((), "KEYTURN_EGRESS_ALLOW"), ((w.simulator.host_port,), "taken")):
        settings.KEYTURN_EGRESS_ALLOW = frozenset(allowed)  # type: ignore[attr-defined]
        with (
            pytest.raises(KeyturnError, match=words),
            simulated_key(SYSTEM, w.key, now=w.now),
        ):
            pytest.fail("there is no such key")
    with pytest.raises(KeyturnError), simulated_key(Actor("user", "ann", None), w.key, now=w.now):
        pytest.fail("only who may create providers comes here")
