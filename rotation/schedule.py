"""When a key is due: its policy's interval, spread by a jitter that is the same for a key each time. Pure."""

from __future__ import annotations

import uuid
from datetime import datetime

from rotation.policy import Policy

JITTER_SHARE = 0.05


def next_due(policy: Policy, key_id: uuid.UUID, start: datetime) -> datetime | None:
    """``interval`` after ``start``, brought forward by up to 5 % so that a herd of keys spreads out.

    None where the policy has no interval: such a key is rotated by people only.
    """
    if policy.interval is None:
        return None
    share = key_id.int % 10_000 / 10_000
    return start + policy.interval * (1 - JITTER_SHARE * share)
