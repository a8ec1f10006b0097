"""When a key is due, and what sets that date. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotation.policy import Policy

JITTER_SHARE = 0.05
# After a rotation that did not succeed nothing starts by itself for this long, however urgent the date is.
RETRY_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Due:
    """A date, what set it (``trigger``, kept by the rotation that it starts), and that in words."""

    at: datetime
    trigger: str
    reason: str


def next_due(policy: Policy, key_id: uuid.UUID, start: datetime) -> datetime | None:
    """``interval`` after ``start``, brought forward by up to 5 % so that a herd of keys spreads out.

    None where the policy has no interval. An interval is elapsed time: it knows no months and no summer time.
    """
    if policy.interval is None:
        return None
    share = key_id.int % 10_000 / 10_000
    return start + policy.interval * (1 - JITTER_SHARE * share)


def due_before(policy: Policy, began: datetime, ends: datetime) -> datetime:
    """When to start so that a rotation which takes its whole deadline, freezes included, is over by ``ends``.

    Never before half of the life is over: a policy that takes longer than its versions live would otherwise
    replace each new one at once.
    """
    needed = max(policy.length, policy.deadline)
    due = ends - needed
    for freeze in sorted(policy.freezes, key=lambda f: f.end, reverse=True):
        if freeze.end > due and freeze.start < ends:  # one that is reached into is passed as a whole
            due = ends - needed - policy.frozen_time(min(freeze.start, due), ends)
    return max(due, began + (ends - began) / 2)
