"""What a rotation needs from outside before a transition: approvals, and an open window. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from rotation.facts import Observations, Snapshot, Wait

# What waits for people or for the calendar is told when that changes; this is for what nobody tells.
LOOK_AGAIN = timedelta(hours=1)
MOST_WITHOUT_ASKING = 50  # per cent of the instances; above that ``shift_past_50`` is asked for

_WORDS = {
    "start": "to start",
    "shift_past_50": "to go past 50 %",
    "revoke": "to revoke",
    "force": "to force the revoke",
}


def approval_missing(r: Snapshot, seen: Observations, transition: str, until: datetime) -> Wait | None:
    """What it waits for until enough other people have approved this transition; None where they have."""
    missing = r.policy.approvals.get(transition, 0) - seen.approvals.get(transition, 0)
    if missing <= 0:
        return None
    lapsed = seen.lapsed.get(transition)
    text = f"{missing} more approval(s) {_WORDS[transition]}" + (f" ({lapsed})" if lapsed else "")
    return Wait(text, until, code=f"approval_{transition}")


def passes_half(r: Snapshot, weight: int) -> bool:
    """Whether this weight is the one that goes past half of the instances."""
    return r.weight <= MOST_WITHOUT_ASKING < weight


def late(r: Snapshot, now: datetime) -> bool:
    """Whether the deadline has passed. Frozen time does not count."""
    return now >= r.deadline_at + r.policy.frozen_time(r.created_at, now)


def closed(r: Snapshot, now: datetime, *, look: datetime) -> Wait | None:
    """The wait for the next opening, or until ``look`` where that comes first."""
    shut = r.policy.closed(now)
    if shut is None:
        return None
    return Wait(shut.reason, min(shut.until or look, look), code="window")


def patience(r: Snapshot, now: datetime) -> datetime:
    """When a rotation that has touched nothing yet is looked at again, if nothing happens before."""
    return max(min(r.deadline_at, now + LOOK_AGAIN), now + r.policy.check_every)
