"""Monitored time: a fold over what was observed. Pure.

An instant is decided once. It is counted, refused (paused, an incident, a failed check), or left as a gap
that nobody observed. Reports that come late can fill a gap, each stretch of it once; nothing else can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rotation.facts import Snapshot
from rotation.judge import Verdict
from rotation.policy import Policy

JUMP = timedelta(seconds=60)  # time that passes without a beat is a gap from here on
LATE = timedelta(hours=24)  # older reports are not accepted
MOST_GAPS = 500
# The verdicts that only say that too little was known at that moment.
_UNOBSERVED = frozenset({"too_few_samples", "silent"})


@dataclass(frozen=True)
class Span:
    """From ``start`` (not included) to ``end``."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start


@dataclass(frozen=True)
class Clock:
    """How far monitored time has come. ``note`` says why it stands still; it is empty while it runs."""

    monitored: timedelta = timedelta(0)
    until: datetime | None = None  # every instant up to here is decided
    gaps: tuple[Span, ...] = ()  # oldest first, apart from each other
    late: Span | None = None  # here reports may fill gaps, and have not been judged yet
    read_at: datetime | None = None  # reports received up to here are part of ``late``
    note: str = ""


@dataclass(frozen=True)
class Tally:
    """Passes in a row, and failed checks since the last step, after one check."""

    passes: int
    failed_checks: int


def tally(rotation: Snapshot, verdict: Verdict) -> Tally:
    passed = verdict.kind == "pass" and not rotation.paused and not rotation.attention
    return Tally(
        passes=rotation.passes + 1 if passed else 0,
        failed_checks=rotation.failed_checks + (verdict.kind == "suspect"),
    )


def longest_span(policy: Policy, tick: timedelta) -> timedelta:
    """The longest time between two checks that a working scheduler explains: some beats, and at most 60 s."""
    return min(3 * policy.check_every, JUMP) + 3 * tick


def run_on(clock: Clock, rotation: Snapshot, verdict: Verdict, *, longest: timedelta, now: datetime) -> Clock:
    """Decide the time since the last check.

    1. The first check starts the clock. 2. Time that was decided already is not counted again: the
    database's clock went back. 3. Paused, or stopped for a person: refused. 4. Longer than a scheduler
    explains: a gap. 5. A pass: counted. 6. Too little known: a gap. 7. Anything else: refused.
    """
    if clock.until is None:
        return replace(clock, until=now, read_at=now, note="")
    if now < clock.until:
        until = f"{clock.until:%Y-%m-%d %H:%M:%S}"
        return replace(clock, note=f"the database's clock went back; nothing counts before {until} UTC")
    span = Span(clock.until, now)
    clock = replace(clock, until=now)
    if rotation.paused:
        return replace(clock, note="paused")
    if rotation.attention:
        return replace(clock, note="a person must choose first")
    if span.length > longest:
        note = f"nobody looked from {span.start:%H:%M:%S} to {now:%H:%M:%S} UTC; late reports still count"
        return replace(_leave_gap(clock, span), note=note)
    if verdict.kind == "pass":
        return replace(clock, monitored=clock.monitored + span.length, note="")
    if verdict.kind == "inconclusive" and verdict.code in _UNOBSERVED:
        clock = _leave_gap(clock, span)
    return replace(clock, note=verdict.reason)


def _leave_gap(clock: Clock, span: Span) -> Clock:
    if span.length == timedelta(0):
        return clock
    gaps = [gap for gap in clock.gaps if gap.end > span.end - LATE]
    if gaps and gaps[-1].end == span.start:
        gaps[-1] = Span(gaps[-1].start, span.end)
    else:
        gaps.append(span)
    # Reports of this time may be here already: the scheduler may have stopped while our doors were open.
    return expect(replace(clock, gaps=tuple(gaps[-MOST_GAPS:])), span)


def expect(clock: Clock, span: Span) -> Clock:
    """Reports have come for this time: the gaps in it are to be judged."""
    if clock.late is not None:
        span = Span(min(span.start, clock.late.start), max(span.end, clock.late.end))
    return replace(clock, late=span)


def fill(clock: Clock, observed: Iterable[Span]) -> Clock:
    """Count what gaps and the observed spans share, and take it out of the gaps."""
    gaps, counted = list(clock.gaps), timedelta(0)
    for span in observed:
        left: list[Span] = []
        for gap in gaps:
            start, end = max(gap.start, span.start), min(gap.end, span.end)
            if start >= end:
                left.append(gap)
                continue
            counted += end - start
            rest = (Span(gap.start, start), Span(end, gap.end))
            left += [piece for piece in rest if piece.length > timedelta(0)]
        gaps = left
    return replace(clock, gaps=tuple(gaps), monitored=clock.monitored + counted)


# Kept with the rotation ----------------------------------------------------------------------------


def to_json(clock: Clock) -> dict[str, Any]:
    """What stands beside the monitored seconds and the note, which have columns of their own."""
    return {
        "until": _text(clock.until),
        "read_at": _text(clock.read_at),
        "late": _pair(clock.late) if clock.late else None,
        "gaps": [_pair(gap) for gap in clock.gaps],
    }


def from_json(document: Mapping[str, Any] | None, monitored: timedelta, note: str = "") -> Clock:
    if not document:
        return Clock(monitored=monitored, note=note)
    late = document["late"]
    return Clock(
        monitored=monitored,
        until=_time(document["until"]),
        gaps=tuple(_span(pair) for pair in document["gaps"]),
        late=_span(late) if late else None,
        read_at=_time(document["read_at"]),
        note=note,
    )


def _pair(span: Span) -> list[str | None]:
    return [_text(span.start), _text(span.end)]


def _span(pair: Any) -> Span:
    start, end = (datetime.fromisoformat(text) for text in pair)
    return Span(start, end)


def _text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
