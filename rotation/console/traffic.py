"""Traffic of a rotation over time: both versions, the failures, and the weight that was wanted.

Reads the requests that consumers reported; where nobody reports, our own deliveries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from django.db.models import F, Sum
from django.db.models.functions import TruncHour, TruncMinute, TruncSecond

from keyvault import readers
from keyvault.console.templatetags.keyturn import span
from keyvault.models import UsageLine
from keyvault.models.activity import OUTCOMES
from rotation.facts import Stage
from rotation.minutes import summed_up, versions_of
from rotation.models import Rotation, RotationEvent

# Lengths of a slice in seconds; the first that gives no more than MOST_BINS is taken, so that bars stand for
# round times and consumers that report at a steady pace fill them evenly.
NICE = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
MOST_BINS, MOST_MARKS, MOST_ROWS = 48, 6, 12
WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 40, 10, 26
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
FAILURES = ("auth_invalid", "server_error", "timeout")
FEWEST_SECONDS, MINUTE = 30.0, 60


@dataclass
class Bin:
    """Requests in one slice of time."""

    old: int = 0
    new: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return self.old + self.new


@dataclass(frozen=True)
class Rect:
    """One SVG rectangle; numbers are attributes, ready to print."""

    kind: str
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True)
class Mark:
    at: str
    text: str


@dataclass(frozen=True)
class Row:
    """One line of the table that says the same as the picture."""

    since: str
    old: int
    new: int
    failed: int

    @property
    def share(self) -> str:
        total = self.old + self.new
        return f"{100 * self.new / total:.0f} %" if total else "–"


@dataclass(frozen=True)
class Traffic:
    """A chart as values; ``unit`` is requests or deliveries, ``summary`` its text alternative."""

    unit: str
    summary: str
    rects: Sequence[Rect] = ()
    target: str = ""
    counts: Sequence[Mark] = ()
    times: Sequence[Mark] = ()
    rows: Sequence[Row] = field(default_factory=tuple)
    slice: str = ""  # how much time a bar stands for
    view_box: str = f"0 0 {WIDTH} {HEIGHT}"


@dataclass(frozen=True)
class Axis:
    """Time from ``start`` on, in ``count`` slices of ``seconds``; ``zero`` is the start of the rotation."""

    start: datetime
    zero: datetime
    seconds: int
    count: int

    @property
    def end(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds * self.count)

    def slot(self, at: datetime) -> int:
        return min(max(int((at - self.start).total_seconds() // self.seconds), 0), self.count - 1)

    def x(self, at: datetime) -> float:
        return LEFT + PLOT_WIDTH * min(max((at - self.start) / (self.end - self.start), 0.0), 1.0)


def axis(start: datetime, end: datetime, least: int = 1) -> Axis:
    """From a little before the start of the rotation to its end, in slices of a round length.

    ``least`` is the length in seconds of the shortest slice. With whole minutes the slices begin on one.
    """
    lived = max((end - start).total_seconds(), FEWEST_SECONDS)
    seconds = next((s for s in NICE if s >= least and lived * 13 / 12 <= s * (MOST_BINS - 1)), NICE[-1])
    before = max(1, round(lived / 12 / seconds))
    first = start - timedelta(seconds=before * seconds)
    if seconds >= MINUTE:
        first = first.replace(second=0, microsecond=0)
    count = int((start + timedelta(seconds=lived) - first).total_seconds() // seconds) + 1
    return Axis(first, start, seconds, count)


def traffic(rotation: Rotation, events: Sequence[RotationEvent], now: datetime) -> Traffic | None:
    """The chart from a little before the start until now or the end; None without any traffic."""
    start, end = rotation.created_at, rotation.finished_at or now
    lived = (end - start).total_seconds()
    time = axis(start, end, least=10 if lived >= 100 else 1)  # consumers do not report every second
    unit: Literal["requests", "deliveries"] = "requests"
    bins = _fill(_reported(rotation, time), rotation, time)
    if not any(b.total for b in bins):
        time = axis(start, end, least=MINUTE)  # what was delivered is counted by the minute
        unit = "deliveries"
        bins = _fill(_delivered(rotation, time), rotation, time)
    if not any(b.total for b in bins):
        return None
    most = max(b.total for b in bins)
    return Traffic(
        unit=unit,
        summary=_summary(bins, unit),
        rects=tuple(_rects(bins, most)),
        target=_target(events, time),
        counts=tuple(_count_marks(most)),
        times=tuple(_time_marks(time)),
        rows=_rows(bins, time),
        slice=span(time.seconds),
    )


Sample = tuple[object, datetime, int, int]  # version id, when, requests, failed


def _trunc(time: Axis) -> type[TruncHour | TruncMinute | TruncSecond]:
    """The coarsest unit that still tells two slices apart."""
    if time.seconds < 60:
        return TruncSecond
    return TruncMinute if time.seconds < 3600 else TruncHour


def _reported(rotation: Rotation, time: Axis) -> Iterable[Sample]:
    total = sum((F(name) for name in OUTCOMES[1:]), F(OUTCOMES[0]))
    failed = sum((F(name) for name in FAILURES[1:]), F(FAILURES[0]))
    lines = UsageLine.objects.filter(
        version_id__in=versions_of(rotation), to_at__gte=time.start, to_at__lte=time.end
    ).annotate(slot=_trunc(time)("to_at"))
    minutes = summed_up(versions_of(rotation), time.start, time.end).annotate(slot=F("minute"))
    for rows in (lines, minutes):
        yield from (rows.values_list("version_id", "slot").annotate(n=Sum(total), bad=Sum(failed)).order_by())


def _delivered(rotation: Rotation, time: Axis) -> Iterable[Sample]:
    versions = versions_of(rotation)
    counted = readers.per_minute(rotation.key_id, time.start, time.end)
    return ((version, minute, n, 0) for version, minute, n in counted if version in versions)


def _fill(samples: Iterable[Sample], rotation: Rotation, time: Axis) -> list[Bin]:
    bins = [Bin() for _ in range(time.count)]
    for version, at, n, bad in samples:
        one = bins[time.slot(at)]
        if version == rotation.incoming_id:
            one.new += n
        else:
            one.old += n
        one.failed += bad
    return bins


def _rects(bins: Sequence[Bin], most: int) -> Iterable[Rect]:
    """Outgoing at the bottom, incoming on top of it, failures as a mark below the axis."""
    slot = PLOT_WIDTH / len(bins)
    for index, one in enumerate(bins):
        x, base = LEFT + index * slot, float(TOP + PLOT_HEIGHT)
        for kind, n in (("old", one.old), ("new", one.new)):
            height = PLOT_HEIGHT * n / most
            if n:
                base -= height
                yield Rect(kind, f"{x:.1f}", f"{base:.1f}", f"{slot - 1.5:.1f}", f"{height:.1f}")
        if one.failed:
            yield Rect("failed", f"{x:.1f}", f"{TOP + PLOT_HEIGHT + 1:.1f}", f"{slot - 1.5:.1f}", "4")


def _target(events: Sequence[RotationEvent], time: Axis) -> str:
    """The weight over time as points of a stepped line; 100 % is the top."""
    points, weight = [(float(LEFT), 0)], 0
    for event in events:
        wanted = 0 if event.stage in (Stage.ROLLED_BACK, Stage.CANCELLED) else event.weight
        if wanted != weight:
            points += [(time.x(event.at), weight), (time.x(event.at), wanted)]
            weight = wanted
    points.append((float(LEFT + PLOT_WIDTH), weight))
    return " ".join(f"{x:.1f},{TOP + PLOT_HEIGHT * (1 - w / 100):.1f}" for x, w in points)


def _count_marks(most: int) -> Iterable[Mark]:
    yield Mark(f"{TOP + 4:.1f}", f"{most}")
    if most > 1:
        yield Mark(f"{TOP + PLOT_HEIGHT * (1 - (most // 2) / most) + 4:.1f}", f"{most // 2}")
    yield Mark(f"{TOP + PLOT_HEIGHT:.1f}", "0")


def _time_marks(time: Axis) -> Iterable[Mark]:
    """Round distances from the start of the rotation."""
    lived = (time.end - time.zero).total_seconds()
    step = next((nice for nice in NICE if lived <= nice * MOST_MARKS), NICE[-1] * 7)
    for n in range(int(lived // step) + 1):
        at = time.zero + timedelta(seconds=n * step)
        yield Mark(f"{time.x(at):.1f}", f"+{span(n * step)}" if n else "start")


def _rows(bins: Sequence[Bin], time: Axis) -> tuple[Row, ...]:
    size, rows = -(-len(bins) // MOST_ROWS), []
    for first in range(0, len(bins), size):
        part = bins[first : first + size]
        since = time.start + timedelta(seconds=first * time.seconds) - time.zero
        text = f"+{span(since)}" if since >= timedelta(0) else f"{span(-since)} before the start"
        rows.append(
            Row(text, sum(b.old for b in part), sum(b.new for b in part), sum(b.failed for b in part))
        )
    return tuple(rows)


def _summary(bins: Sequence[Bin], unit: str) -> str:
    last = next((b for b in reversed(bins) if b.total), Bin())
    old, new = sum(b.old for b in bins), sum(b.new for b in bins)
    failed = sum(b.failed for b in bins)
    share = f"{100 * last.new / last.total:.0f} %" if last.total else "none"
    return (
        f"{old + new} {unit}: {old} with the outgoing key, {new} with the incoming key, {failed} failed. "
        f"In the latest slice {share} used the incoming key."
    )
