"""Reports that come late: the stretches of a gap that they prove to have been healthy. Reads only.

Time is cut into slots of a minute (of a window, where that is shorter). A slot is judged by the same rules
as the present, on the reports of the window that ends with it; where it passes, what its own reports cover
counts.
"""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from django.db.models import Max, Min

from keyvault.domain import Instance
from keyvault.models import UsageLine
from keyvault.models.activity import OUTCOMES
from rotation import counting
from rotation.counting import Line
from rotation.facts import Counts, Observations, Snapshot
from rotation.judge import judge
from rotation.models import Rotation
from rotation.monitored import Clock, Span, expect, fill

MINUTE = timedelta(minutes=1)
SLOTS_AT_ONCE = 10
# A report that sums up more than this says too little of each of its minutes.
LONGEST_REPORT = timedelta(hours=1)
# A report may be committed some time after the moment at which it was received.
UNCOMMITTED = timedelta(minutes=1)
# In a report longer than a window one of these spoils every slot; the others are spread over them.
_CATEGORICAL = ("auth_invalid", "auth_missing", "not_found_job")


def count_late(rotation: Rotation, state: Snapshot, clock: Clock, baseline: Counts, now: datetime) -> Clock:
    """Fill the gaps of the clock with what late reports prove, a few slots at a time, oldest first."""
    if not clock.gaps or rotation.incoming_id is None:
        return replace(clock, late=None, read_at=now)
    clock = _take_notice(clock, rotation.incoming_id, now)
    if clock.late is None:
        return clock
    slots = _Slots(min(MINUTE, state.policy.window))
    told = clock.late
    here = [gap for gap in clock.gaps if gap.end > told.start and gap.start < told.end]
    if not here:
        return replace(clock, late=None)
    start, end = max(here[0].start, told.start), min(here[-1].end, told.end)
    before = slots.index_before(end) + 1
    first = min(slots.index(start), before - 1)
    # A slot that is not over yet cannot be judged.
    last = min(first + SLOTS_AT_ONCE, before, slots.index(now))
    if first >= last:
        return clock
    healthy = _healthy(rotation, state, slots, range(first, last), baseline)
    clock = fill(clock, healthy)
    done = slots.start(last)
    return replace(clock, late=Span(done, told.end) if done < told.end else None)


def _take_notice(clock: Clock, version_id: uuid.UUID, now: datetime) -> Clock:
    """Which time the reports speak of that were received since we last looked."""
    since = (clock.read_at or now) - UNCOMMITTED
    oldest = clock.gaps[0].start
    received = UsageLine.objects.filter(version_id=version_id, received_at__gt=since, to_at__gt=oldest)
    told = received.order_by().aggregate(start=Min("report__from_at"), end=Max("to_at"))
    clock = replace(clock, read_at=now)
    if told["start"] is None or told["start"] >= clock.gaps[-1].end:
        return clock
    return expect(clock, Span(max(told["start"], oldest), told["end"]))


@dataclass(frozen=True)
class _Slots:
    """Time by number: slot n is from n * length (not included) to (n + 1) * length, since 1970."""

    length: timedelta

    def index(self, moment: datetime) -> int:
        return math.floor(moment.timestamp() / self.length.total_seconds())

    def index_before(self, moment: datetime) -> int:
        """The slot that holds the last instant up to ``moment``."""
        return math.ceil(moment.timestamp() / self.length.total_seconds()) - 1

    def start(self, index: int) -> datetime:
        return datetime.fromtimestamp(index * self.length.total_seconds(), UTC)

    def span(self, index: int) -> Span:
        return Span(self.start(index), self.start(index + 1))


@dataclass
class _Told:
    """What reports say of one slot: the lines of each version."""

    lines: dict[uuid.UUID, list[Line]] = field(default_factory=lambda: defaultdict(list))
    covered: list[Span] = field(default_factory=list)  # by reports of the incoming version

    @property
    def places(self) -> set[Instance]:
        return {line.place for lines in self.lines.values() for line in lines}


def _healthy(
    rotation: Rotation, state: Snapshot, slots: _Slots, wanted: range, baseline: Counts
) -> list[Span]:
    """What reports cover in the slots that pass, without overlaps."""
    n = max(1, round(state.policy.window / slots.length))
    told = _read(rotation, slots, range(wanted.start - 3 * n, wanted.stop), n)
    # Nothing stands in for a report of the past.
    strict = replace(state, policy=replace(state.policy, allow_idle=False))
    passed = [i for i in wanted if _passes(rotation, strict, told, i, n, baseline, slots.start(i + 1))]
    return _union(span for i in passed for span in told[i].covered)


def _union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _passes(
    rotation: Rotation,
    state: Snapshot,
    told: dict[int, _Told],
    index: int,
    n: int,
    baseline: Counts,
    now: datetime,
) -> bool:
    if not told[index].covered:
        return False
    window = [told[i] for i in range(index - n + 1, index + 1)]
    heard = set().union(*(one.places for one in window))
    usual = set().union(*(told[i].places for i in range(index - 3 * n + 1, index - n + 1)))
    sides = []
    for version_id in (rotation.incoming_id, rotation.outgoing_id):
        lines = [line for one in window for line in one.lines.get(version_id, ())] if version_id else []
        sides.append(counting.fold(lines, peers=len(heard), min_samples=state.policy.min_samples))
    seen = Observations(
        incoming=sides[0],
        outgoing=sides[1],
        baseline=baseline,
        silent=tuple(sorted("/".join(place) for place in usual - heard)),
        instances=len(heard),
        assigned=len(heard),
    )
    return judge(state, seen, now).kind == "pass"


def _read(rotation: Rotation, slots: _Slots, wanted: range, n: int) -> dict[int, _Told]:
    start, end = slots.start(wanted.start), slots.start(wanted.stop)
    rows = UsageLine.objects.filter(
        version_id__in=[pk for pk in (rotation.incoming_id, rotation.outgoing_id) if pk is not None],
        to_at__gt=start,
        to_at__lte=end + LONGEST_REPORT,
        report__from_at__lt=end,
    ).order_by()
    told: dict[int, _Told] = defaultdict(_Told)
    names = ("version_id", "consumer__slug", "instance", "credential", "report__from_at", "to_at", *OUTCOMES)
    for row in rows.values(*names).iterator():
        if row["to_at"] - row["report__from_at"] > LONGEST_REPORT:
            continue
        last = slots.index_before(row["to_at"])
        covered = range(min(slots.index(row["report__from_at"]), last), last + 1)
        for index, line in _spread(counting.line_of(row), covered, spoil=len(covered) > n):
            if index not in wanted:
                continue
            told[index].lines[row["version_id"]].append(line)
            if row["version_id"] == rotation.incoming_id:
                slot = slots.span(index)
                span = Span(max(slot.start, row["report__from_at"]), min(slot.end, row["to_at"]))
                told[index].covered.append(span)
    return told


def _spread(line: Line, covered: range, *, spoil: bool) -> Iterator[tuple[int, Line]]:
    n = len(covered)
    for at, index in enumerate(covered):
        counts = {
            name: total if spoil and name in _CATEGORICAL else total * (at + 1) // n - total * at // n
            for name, total in line.counts.items()
        }
        yield index, replace(line, counts=counts)
