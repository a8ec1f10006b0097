"""What a rotation does next by itself, and when at the earliest. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rotation.facts import Stage
from rotation.models import Rotation
from rotation.policy import Policy


@dataclass(frozen=True)
class Ahead:
    """``text`` goes on after the moment: "at 14:20 it moves to 50 %"."""

    at: datetime
    text: str


def ahead(rotation: Rotation, policy: Policy) -> Ahead | None:
    """None where nothing happens by itself, or at no moment that is known before."""
    if not rotation.is_open or rotation.paused or rotation.attention or rotation.abort_asked_at:
        return None
    old = f"v{rotation.outgoing.number}" if rotation.outgoing else "the old key"
    if rotation.stage == Stage.SHIFT and rotation.step < len(policy.steps):
        at = rotation.step_entered_at + policy.steps[rotation.step].hold
        if rotation.step + 1 < len(policy.steps):
            return Ahead(at, f"it moves to {policy.steps[rotation.step + 1].weight} %")
        return Ahead(at, "everybody has the new key, and the monitoring begins")
    if rotation.stage == Stage.MONITOR and rotation.last_check_at is not None:
        left = policy.monitor - timedelta(seconds=rotation.monitored_seconds)
        at = (rotation.last_check_at + left).replace(microsecond=0)
        return Ahead(at, f"{old} leaves service, if nobody uses it by then") if left > timedelta(0) else None
    if rotation.stage == Stage.REVOKE and rotation.revoke_asked_at is None:
        return Ahead(rotation.stage_entered_at + policy.cool_off, f"{old} is revoked")
    return None
