"""A key is replaced and nobody notices."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from keyvault.models import AuditEvent, AuditHead
from rotation.policy import Policy, to_json
from tests.stories.conftest import BRISK
from tests.stories.world import World


def test_a_rotation_replaces_the_key_and_no_consumer_sees_a_failure(world: Callable[..., World]) -> None:
    w = world()
    w.start()
    w.run_to("succeeded")

    assert w.failures == {}
    assert w.requests > 1000
    assert [i.seen for i in w.instances] == [[1, 2]] * 4
    assert w.key.current is not None
    assert w.key.current.number == 2
    assert w.key.pending is None
    assert w.key.previous is None
    assert w.key.weight is None
    assert w.version(1).state == "revoked"
    assert w.honoured(2)
    assert not w.honoured(1)
    weights = [e.weight for e in w.rotation.events.filter(name="weight")]
    assert weights == [25, 50, 100]


def test_the_monitor_stage_lasts_the_observed_time_of_the_policy(world: Callable[..., World]) -> None:
    w = world()
    w.start()
    w.run_to("monitor")
    entered = w.now
    w.run_to("revoke")
    assert BRISK.monitor <= w.now - entered <= BRISK.monitor + timedelta(minutes=2)
    assert w.rotation.monitored_seconds >= BRISK.monitor.total_seconds()


def test_the_outgoing_key_stays_honoured_until_revoke(world: Callable[..., World]) -> None:
    w = world()
    w.start()

    def check() -> bool:
        stage = w.rotation.stage
        if stage in ("requested", "deploy", "shift", "monitor"):
            assert w.honoured(1), stage
        return stage == "succeeded"

    w.run(check)


def test_every_transition_has_one_audit_event_and_they_rebuild_the_stage(
    world: Callable[..., World],
) -> None:
    w = world()
    w.start()
    w.run_to("succeeded")
    events = AuditEvent.objects.filter(subject=str(w.rotation.id), name="rotation:stage").order_by("sequence")
    path = [(e.details["was"], e.details["stage"]) for e in events]
    assert path == [
        ("requested", "deploy"),
        ("deploy", "shift"),
        ("shift", "monitor"),
        ("monitor", "revoke"),
        ("revoke", "succeeded"),
    ]


@pytest.mark.once
def test_a_standard_rotation_takes_a_day_and_revokes_after_its_cool_off(
    world: Callable[..., World], standard: Policy, settings: Any
) -> None:
    w = world(policy=standard, instances=3)
    settings.KEYTURN_TICK = 60  # the beats of this story are far apart
    w.start()
    w.run_to("monitor", step=90)
    w.run_to("revoke", step=230, most=500)
    assert w.rotation.monitored_seconds >= 24 * 3600
    w.run_to("succeeded", step=600, most=400)
    assert w.failures == {}
    assert to_json(standard)["monitor"] == "P1D"


def test_a_part_of_the_beat_that_fails_does_not_stop_the_others(
    world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """An event about a key that is not there: exposures cannot be read, rotations go on."""
    w = world()
    newest = AuditEvent.objects.order_by("-sequence").first()
    assert newest is not None
    AuditEvent.objects.create(
        sequence=newest.sequence + 1, at=w.now, name="key:revealed", actor_kind="user", actor="lena",
        service="gone", environment="prod", mac=b"",
    )  # fmt: skip
    AuditHead.objects.update(sequence=newest.sequence + 1)
    w.start()
    w.run(lambda: w.rotation.stage == "shift", most=10)
    assert "a part of the beat failed" in caplog.text
