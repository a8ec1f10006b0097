"""When rotations may go on: weekly windows in a named time zone, and freezes. Pure.

A window is read off a clock on the wall of its zone: an instant lies in it when that clock shows a time
between the two ends. So an hour that the clocks skip opens nothing, and one that comes twice opens twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = timedelta(days=1)
# Two weeks: the hour of a weekly window may be skipped by the clocks once.
HORIZON_DAYS = 15


@dataclass(frozen=True)
class Window:
    """A weekly span: the days on which it opens, from, to (local to ``zone``).

    Where ``to`` is not later than ``from``, it ends on the day after; both the same is a whole day.
    """

    days: tuple[str, ...]
    start: time
    end: time
    zone: str

    def holds(self, now: datetime) -> bool:
        local = now.astimezone(ZoneInfo(self.zone))
        clock = local.time()
        today = WEEKDAYS[local.weekday()] in self.days
        if self.start < self.end:
            return today and self.start <= clock < self.end
        yesterday = WEEKDAYS[local.weekday() - 1] in self.days
        return (today and clock >= self.start) or (yesterday and clock < self.end)

    def opens(self, now: datetime) -> datetime | None:
        """The first instant after ``now`` at which it opens; None where it does not within two weeks."""
        return min((at for at in self._candidates(now) if at > now and self.holds(at)), default=None)

    def _candidates(self, now: datetime) -> Iterator[datetime]:
        """Every instant at which it can open: when the wall clock shows its start, or has been moved."""
        zone = ZoneInfo(self.zone)
        first = now.astimezone(zone).date()
        for n in range(HORIZON_DAYS):
            day = first + n * DAY
            for fold in (0, 1):
                yield datetime.combine(day, self.start, zone).replace(fold=fold).astimezone(UTC)
        for n in range(HORIZON_DAYS):
            moved = _clocks_moved(zone, now + n * DAY, now + (n + 1) * DAY)
            if moved is not None:
                yield moved


def _clocks_moved(zone: ZoneInfo, low: datetime, high: datetime) -> datetime | None:
    """The second at which the zone's offset changes between two instants that are a day apart, or None."""
    low, high = (at.astimezone(UTC).replace(microsecond=0) for at in (low, high))
    before = low.astimezone(zone).utcoffset()
    if before == high.astimezone(zone).utcoffset():
        return None
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Freeze:
    """A span without any progress, for example a holiday season."""

    start: datetime
    end: datetime
    reason: str

    def holds(self, now: datetime) -> bool:
        return self.start <= now < self.end


@dataclass(frozen=True)
class Closed:
    """Nothing may start or go on now: why, and until when (None: no opening within two weeks)."""

    reason: str
    until: datetime | None


def closed(windows: Sequence[Window], freezes: Sequence[Freeze], now: datetime) -> Closed | None:
    """Why nothing may go on at this instant, with the next one at which it may; None where it may."""
    frozen = max((freeze for freeze in freezes if freeze.holds(now)), key=lambda f: f.end, default=None)
    if frozen is None and _within(windows, now):
        return None
    until = _opening(windows, freezes, now)
    if frozen is not None:
        why = f"frozen until {frozen.end.isoformat()}: {frozen.reason}".rstrip(": ")
    else:
        why = "outside the allowed windows (" + ", ".join(sorted({w.zone for w in windows})) + ")"
    if until is None:
        return Closed(f"{why}; no window opens in the next two weeks", None)
    return Closed(f"{why}; goes on at {_both_times(until, windows)}", until)


def frozen_time(freezes: Sequence[Freeze], since: datetime, until: datetime) -> timedelta:
    """How much of a span was frozen; spans of freezes that overlap count once."""
    total, reached = timedelta(0), since
    for freeze in sorted(freezes, key=lambda f: f.start):
        start, end = max(freeze.start, reached), min(freeze.end, until)
        if end > start:
            total, reached = total + (end - start), end
    return total


def _within(windows: Sequence[Window], now: datetime) -> bool:
    return not windows or any(window.holds(now) for window in windows)


def _opening(windows: Sequence[Window], freezes: Sequence[Freeze], now: datetime) -> datetime | None:
    """The first instant from ``now`` that lies in a window and in no freeze."""
    at = now
    for _ in range(2 * len(freezes) + 2):  # each turn leaves a freeze behind, or reaches a window
        thaw = max((freeze.end for freeze in freezes if freeze.holds(at)), default=None)
        if thaw is not None:
            at = thaw
        elif _within(windows, at):
            return at
        else:
            openings = [opening for window in windows if (opening := window.opens(at)) is not None]
            if not openings:
                return None
            at = min(openings)
    return None


def _both_times(at: datetime, windows: Sequence[Window]) -> str:
    """UTC, and the local time of the first window's zone."""
    text = f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if not windows:
        return text
    return f"{text} ({at.astimezone(ZoneInfo(windows[0].zone)):%a %H:%M} {windows[0].zone})"
