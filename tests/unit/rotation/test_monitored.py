"""Monitored time is a fold: every instant is decided once, and only what was observed to be well counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotation.facts import Snapshot, Stage
from rotation.judge import Verdict
from rotation.monitored import (
    Clock,
    Span,
    expect,
    fill,
    from_json,
    longest_span,
    run_on,
    tally,
    to_json,
)
from rotation.policy import STANDARD, Step

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
MONITOR = Snapshot(
    stage=Stage.MONITOR,
    policy=STANDARD,
    step=3,
    weight=100,
    created_at=NOW,
    stage_entered_at=NOW,
    step_entered_at=NOW,
    deadline_at=NOW + timedelta(days=7),
    passes=1,
    failed_checks=1,
)
PASS, FAIL, SUSPECT, HOLD = (Verdict(kind, "c", "r") for kind in ("pass", "fail", "suspect", "hold"))
SILENT, FEW, UNCLEAR = (
    Verdict("inconclusive", code, "r") for code in ("silent", "too_few_samples", "error_rate")
)
LONGEST = timedelta(seconds=90)
RUNNING = Clock(monitored=HOUR, until=NOW, read_at=NOW)
PAUSED, STOPPED = replace(MONITOR, paused=True), replace(MONITOR, attention="x")


def after(
    seconds: float, verdict: Verdict = PASS, *, clock: Clock = RUNNING, state: Snapshot = MONITOR
) -> Clock:
    return run_on(clock, state, verdict, longest=LONGEST, now=NOW + seconds * SECOND)


# seconds since the last check, verdict, state -> counted, left as a gap, why it stands still
CASES: list[tuple[str, float, Verdict, Snapshot, float, float, str]] = [
    ("healthy", 30, PASS, MONITOR, 30, 0, ""),
    ("a late beat", 90, PASS, MONITOR, 90, 0, ""),
    ("later than a beat can be", 91, PASS, MONITOR, 0, 91, "nobody looked from 12:00:00 to 12:01:31 UTC"),
    ("down for a day", 86_400, PASS, MONITOR, 0, 86_400, "nobody looked"),
    ("down, then an incident", 3600, HOLD, MONITOR, 0, 3600, "nobody looked"),
    ("an incident", 30, HOLD, MONITOR, 0, 0, "r"),
    ("a failed check", 30, SUSPECT, MONITOR, 0, 0, "r"),
    ("a rejected key", 30, FAIL, MONITOR, 0, 0, "r"),
    ("errors, perhaps by luck", 30, UNCLEAR, MONITOR, 0, 0, "r"),
    ("silence", 30, SILENT, MONITOR, 0, 30, "r"),
    ("few reports", 30, FEW, MONITOR, 0, 30, "r"),
    ("paused", 30, PASS, PAUSED, 0, 0, "paused"),
    ("down while paused", 3600, PASS, PAUSED, 0, 0, "paused"),
    ("a person must choose", 30, PASS, STOPPED, 0, 0, "a person must choose first"),
]


@pytest.mark.parametrize(
    ("case", "seconds", "verdict", "state", "counted", "gap", "note"), CASES, ids=[row[0] for row in CASES]
)
def test_only_observed_healthy_time_is_counted(
    case: str, seconds: float, verdict: Verdict, state: Snapshot, counted: float, gap: float, note: str
) -> None:
    clock = after(seconds, verdict, state=state)
    assert clock.monitored - HOUR == counted * SECOND
    assert sum((one.length for one in clock.gaps), timedelta(0)) == gap * SECOND
    assert clock.note.startswith(note)
    assert bool(clock.note) is bool(note)
    assert clock.until == NOW + seconds * SECOND


def test_the_first_check_starts_the_clock_and_counts_nothing() -> None:
    clock = run_on(Clock(), MONITOR, PASS, longest=LONGEST, now=NOW)
    assert (clock.monitored, clock.until, clock.gaps) == (timedelta(0), NOW, ())


def test_time_that_was_counted_is_not_counted_again_when_the_database_clock_goes_back() -> None:
    clock = after(-3600)
    assert clock.monitored == HOUR
    assert clock.until == NOW
    assert "went back" in clock.note
    assert "2026-03-02 12:00:00" in clock.note
    assert after(-1, clock=clock).monitored == HOUR
    assert after(10, clock=clock).monitored == HOUR + 10 * SECOND


def test_what_a_working_scheduler_explains() -> None:
    assert longest_span(STANDARD, 10 * SECOND) == timedelta(seconds=90)
    quick = replace(STANDARD, window=8 * SECOND, steps=(Step(100, SECOND),))
    assert longest_span(quick, SECOND) == timedelta(seconds=6)
    slow = replace(STANDARD, window=timedelta(hours=3))
    assert longest_span(slow, timedelta(0)) == timedelta(seconds=60 + 0)


def test_24_hours_less_a_second_are_not_24_hours() -> None:
    clock = replace(RUNNING, monitored=timedelta(hours=24) - 31 * SECOND)
    assert after(30, clock=clock).monitored == timedelta(hours=24) - SECOND


# Gaps -------------------------------------------------------------------------------------------------


def gap(start: float, end: float) -> Span:
    return Span(NOW + start * SECOND, NOW + end * SECOND)


def test_gaps_that_touch_are_one_and_their_reports_are_looked_for() -> None:
    clock = after(60, FEW, clock=after(30, FEW))
    assert clock.gaps == (gap(0, 60),)
    assert clock.late == gap(0, 60)
    clock = after(120, FEW, clock=after(90, PASS, clock=clock))
    assert clock.gaps == (gap(0, 60), gap(90, 120))


def test_a_gap_is_forgotten_when_no_report_can_fill_it_any_more() -> None:
    clock = replace(RUNNING, gaps=(gap(-90_000, -86_400), gap(-86_400, -86_300)))
    assert after(10, FEW, clock=clock).gaps == (gap(-86_400, -86_300), gap(0, 10))


def test_a_late_report_fills_what_it_covers_once() -> None:
    clock = replace(RUNNING, gaps=(gap(-600, -300), gap(-200, -100)))
    once = fill(clock, [gap(-540, -480), gap(-480, -420), gap(-320, -150)])
    assert once.monitored - HOUR == (60 + 60 + 20 + 50) * SECOND
    assert once.gaps == (gap(-600, -540), gap(-420, -320), gap(-150, -100))
    assert fill(once, [gap(-540, -480), gap(-320, -150)]) == once


def test_what_is_looked_for_grows_to_hold_everything_that_came() -> None:
    clock = expect(expect(RUNNING, gap(10, 20)), gap(-5, 12))
    assert clock.late == gap(-5, 20)


def test_a_clock_survives_being_stored() -> None:
    clock = replace(RUNNING, gaps=(gap(-90.5, -80), gap(0.000001, 7)), late=gap(1, 2), note="n")
    assert from_json(to_json(clock), HOUR, "n") == clock
    assert from_json(None, HOUR) == Clock(monitored=HOUR)


CHECKS = st.lists(
    st.tuples(
        st.sampled_from([-4000, -61, 1, 10, 30, 30, 30, 60, 90, 91, 600, 4000]),
        st.sampled_from([PASS, PASS, PASS, HOLD, SUSPECT, FEW, SILENT]),
        st.sampled_from([MONITOR, MONITOR, MONITOR, PAUSED]),
        st.lists(st.tuples(st.integers(-9000, 9000), st.integers(1, 4000)), max_size=3),
    ),
    max_size=30,
)


@given(CHECKS)
def test_no_history_counts_an_instant_twice(
    checks: list[tuple[int, Verdict, Snapshot, list[tuple[int, int]]]],
) -> None:
    clock, now = run_on(Clock(), MONITOR, PASS, longest=LONGEST, now=NOW), 0
    reached = 0
    for seconds, verdict, state, reports in checks:
        before, now = clock, now + seconds
        clock = run_on(clock, state, verdict, longest=LONGEST, now=NOW + now * SECOND)
        clock = fill(clock, [gap(start, start + length) for start, length in reports])
        reached = max(reached, now)
        open_time = sum((one.length for one in clock.gaps), timedelta(0))
        assert clock.monitored + open_time <= reached * SECOND
        assert clock.monitored >= before.monitored
        assert all(a.end <= b.start for a, b in zip(clock.gaps, clock.gaps[1:], strict=False))


# Counters ---------------------------------------------------------------------------------------------


def test_passes_must_be_in_a_row_and_failed_checks_add_up() -> None:
    assert tally(MONITOR, PASS).passes == 2
    assert (tally(MONITOR, SUSPECT).passes, tally(MONITOR, SUSPECT).failed_checks) == (0, 2)
    assert tally(MONITOR, HOLD).failed_checks == 1
    assert tally(PAUSED, PASS).passes == tally(STOPPED, PASS).passes == tally(MONITOR, FEW).passes == 0
