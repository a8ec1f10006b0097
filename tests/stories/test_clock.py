"""The monitor clock counts what was observed: late reports, downtime, a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from keyvault.models import Key
from keyvault.services import usage
from rotation import monitored
from tests.stories.conftest import BRISK
from tests.stories.world import Instance, World

Build = Callable[..., World]
MINUTE = timedelta(minutes=1)


def _monitoring(build: Build, seconds: float = 120, **more: Any) -> World:
    w = build(**{"policy": replace(BRISK, monitor=10 * MINUTE), **more})
    w.start()
    w.run_to("monitor")
    w.run(lambda: w.rotation.monitored_seconds >= seconds)
    return w


def _tell(w: World, instance: Instance, start: datetime, end: datetime, **counts: int) -> bool:
    """What an instance that could not reach us tells of a time that is over."""
    instance.sequence += 1
    line = usage.LineInput(2, "key", counts)
    told = usage.ReportInput(instance.name, instance.sequence, start, end, [line])
    return usage.accept_report(w.consumer, Key(pk=w.key_id), told, now=w.now)


def _outage(w: World, minutes: int, *, traffic: bool = True) -> datetime:
    """Keyturn is down; returns since when. The first beat after it finds the gap."""
    start = w.now
    w.tick(minutes * 60, traffic=traffic)
    return start


def test_time_in_which_keyturn_was_down_is_not_counted_until_somebody_tells_of_it(world: Build) -> None:
    w = _monitoring(world)
    before = w.rotation.monitored_seconds
    start = _outage(w, 60)
    assert w.rotation.monitored_seconds == before
    assert w.rotation.clock_note.startswith(f"nobody looked from {start:%H:%M:%S} to {w.now:%H:%M:%S} UTC")
    w.tick()
    assert w.rotation.clock_note == ""
    assert w.rotation.monitored_seconds == before + 10, "it runs again, and the hour is not part of it"


def test_late_reports_count_the_minutes_they_cover_once(world: Build) -> None:
    w = _monitoring(world)
    start = _outage(w, 30)
    before = w.rotation.monitored_seconds
    tellers = w.instances
    for n in range(4):
        for instance in tellers:
            assert _tell(w, instance, start + n * MINUTE, start + (n + 1) * MINUTE, ok=5)
    w.tick()
    told = w.rotation.monitored_seconds - before
    # The first minute of the window that follows nobody's report has no silence to be blamed for.
    assert 180 + 10 <= told <= 240 + 10
    for instance in tellers:
        _tell(w, instance, start, start + 4 * MINUTE, ok=20)
    w.tick()
    w.tick()
    assert w.rotation.monitored_seconds - before == told + 20, "what was counted is not counted again"


def test_late_reports_of_failures_count_nothing(world: Build) -> None:
    w = _monitoring(world)
    start = _outage(w, 30)
    before = w.rotation.monitored_seconds
    for instance in w.instances:
        _tell(w, instance, start, start + 5 * MINUTE, ok=40, server_error=10)
        _tell(w, instance, start + 10 * MINUTE, start + 15 * MINUTE, ok=50, auth_invalid=1)
    for _ in range(3):
        w.tick()
    assert w.rotation.monitored_seconds == before + 30
    assert w.rotation.stage == "monitor", "the present is well, so nothing is rolled back"


def test_a_time_of_which_one_instance_says_nothing_is_not_counted(world: Build) -> None:
    w = _monitoring(world)
    start = _outage(w, 30)
    before = w.rotation.monitored_seconds
    for n in range(3):
        for instance in w.instances[1:]:
            _tell(w, instance, start + n * MINUTE, start + (n + 1) * MINUTE, ok=10)
    w.tick()
    counted = w.rotation.monitored_seconds - before - 10
    _tell(w, w.instances[0], start, start + 3 * MINUTE, ok=20)
    w.tick()
    assert w.rotation.monitored_seconds - before - 20 > counted, "its own report is what was missing"


def test_a_pause_is_never_filled_by_reports(world: Build) -> None:
    w = _monitoring(world)
    w.verb("pause")
    w.tick()
    before, start = w.rotation.monitored_seconds, w.now
    w.tick(1800)
    w.verb("resume")
    for instance in w.instances:
        _tell(w, instance, start, start + 30 * MINUTE, ok=300)
    w.tick()
    w.tick()
    assert w.rotation.monitored_seconds <= before + 20


def test_after_late_reports_the_present_has_to_look_well_once(world: Build) -> None:
    w = _monitoring(world, 60)
    start = _outage(w, 30, traffic=False)
    for n in range(15):
        for instance in w.instances:
            _tell(w, instance, start + n * MINUTE, start + (n + 1) * MINUTE, ok=5)
    for _ in range(12):
        w.tick(traffic=False)
    assert w.rotation.monitored_seconds >= 600, "late reports have filled the clock"
    assert w.rotation.stage == "monitor"
    assert w.rotation.verdict == "inconclusive"
    assert w.rotation.waiting_code == "too_few_samples"
    w.run_to("revoke", most=30)


def test_reports_that_were_only_slow_are_counted_too(world: Build) -> None:
    """Each instance tells of a minute when it is over; what the checks missed meanwhile is made up for."""
    w = _monitoring(world, policy=replace(BRISK, monitor=60 * MINUTE))
    before = w.rotation.monitored_seconds
    begun = w.now
    for _ in range(10):
        start = w.now
        for _ in range(6):
            w.tick(traffic=False)
        for instance in w.instances:
            w.ask(instance)
            _tell(w, instance, start, w.now, ok=30)
    w.tick(traffic=False)
    elapsed = (w.now - begun).total_seconds()
    assert elapsed - 75 <= w.rotation.monitored_seconds - before <= elapsed


def test_a_database_clock_that_goes_back_stops_the_clock_with_the_reason(world: Build) -> None:
    w = _monitoring(world)
    before, reached = w.rotation.monitored_seconds, w.now
    w.tick(-300)
    assert w.rotation.monitored_seconds == before
    assert "went back" in w.rotation.clock_note
    for _ in range(20):
        w.tick()
    assert w.now < reached
    assert w.rotation.monitored_seconds == before, "these minutes were counted already"
    w.run(lambda: w.rotation.monitored_seconds > before)
    assert w.now > reached


def test_a_database_clock_that_jumps_ahead_credits_nothing(world: Build) -> None:
    w = _monitoring(world)
    before = w.rotation.monitored_seconds
    w.tick(91)
    assert w.rotation.monitored_seconds == before
    assert w.rotation.clock_note.startswith("nobody looked")
    gaps = monitored.from_json(w.rotation.clock, timedelta(0)).gaps
    assert sum(gap.length.total_seconds() for gap in gaps) >= 80
