"""When to try again, and when the daily message is due. Pure but for the dice."""

from __future__ import annotations

import random
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

LONGEST_WAIT: Final = 900.0  # seconds
GIVE_UP: Final = timedelta(hours=24)
_random = random.SystemRandom()


def backoff(tries: int, retry_after: float | None = None) -> timedelta:
    """Full jitter over a doubling second, at most a quarter of an hour; a Retry-After counts as least."""
    delay = _random.uniform(0.2, min(LONGEST_WAIT, 2.0 ** min(max(tries, 1), 12)))
    return timedelta(seconds=max(delay, min(retry_after or 0.0, LONGEST_WAIT)))


def next_digest(now: datetime, at: str, zone: str) -> datetime:
    """The first ``HH:MM`` of the zone's clock after ``now``.

    A time that a clock change leaves out comes as much later as the clock is put forward; one that comes
    twice counts the first time.
    """
    local = now.astimezone(ZoneInfo(zone))
    wanted = time.fromisoformat(at)
    for days in (0, 1, 2):
        day = local.date() + timedelta(days=days)
        due = datetime.combine(day, wanted, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        if due > now:
            return due
    raise RuntimeError("a day without this time")
