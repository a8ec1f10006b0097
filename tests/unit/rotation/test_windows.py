"""Windows and freezes: what holds, when it opens, over midnight and on the days when the clocks move."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotation.windows import WEEKDAYS, Closed, Freeze, Window, closed, frozen_time

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
KOLKATA, HOWE = "Asia/Kolkata", "Australia/Lord_Howe"  # half-hour offset; half an hour of summer time
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def at(text: str) -> datetime:
    """``2026-03-29 01:00`` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(days: str, start: str, end: str, zone: str = BERLIN) -> Window:
    return Window(tuple(days.split()), time.fromisoformat(start), time.fromisoformat(end), zone)


EVERY = " ".join(WEEKDAYS)
OFFICE = window("mon tue wed thu fri", "09:00", "17:00")
NIGHT = window("fri", "22:00", "04:00")


@pytest.mark.parametrize(
    ("now", "inside"),
    [
        ("2026-03-02 07:59:59", False),
        ("2026-03-02 08:00", True),  # 09:00 in Berlin, winter
        ("2026-03-02 15:59:59", True),
        ("2026-03-02 16:00", False),
        ("2026-03-30 07:00", True),  # 09:00 in Berlin, the Monday after the clocks moved
        ("2026-03-30 15:00", False),
        ("2026-03-07 12:00", False),  # a Saturday
    ],
)
def test_a_window_is_read_off_the_clock_of_its_zone(now: str, inside: bool) -> None:
    assert OFFICE.holds(at(now)) is inside


@pytest.mark.parametrize(
    ("now", "inside"),
    [
        ("2026-03-06 20:59:59", False),  # Friday 21:59:59
        ("2026-03-06 21:00", True),
        ("2026-03-07 02:59:59", True),  # Saturday morning belongs to Friday's window
        ("2026-03-07 03:00", False),
        ("2026-03-06 02:00", False),  # Friday morning would belong to Thursday's, and there is none
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens(now: str, inside: bool) -> None:
    assert NIGHT.holds(at(now)) is inside


def test_both_ends_the_same_is_a_whole_day() -> None:
    sunday = window("sun", "00:00", "00:00")
    assert sunday.holds(at("2026-03-08 12:00"))
    assert sunday.holds(at("2026-03-07 23:00"))
    assert not sunday.holds(at("2026-03-08 23:00"))


@pytest.mark.parametrize(
    ("opening", "spring", "now", "opens"),
    [
        # Berlin skips 02:00-03:00 on 2026-03-29 (01:00 UTC), and repeats it on 2026-10-25.
        ("before", window("sun", "01:00", "05:00"), "2026-03-28 12:00", "2026-03-29 00:00"),
        ("inside the gap", window("sun", "02:30", "05:00"), "2026-03-28 12:00", "2026-03-29 01:00"),
        ("after", window("sun", "04:00", "05:00"), "2026-03-28 12:00", "2026-03-29 02:00"),
        ("all of it skipped", window("sun", "02:00", "03:00"), "2026-03-28 12:00", "2026-04-05 00:00"),
        ("the first of two", window("sun", "02:30", "05:00"), "2026-10-24 12:00", "2026-10-25 00:30"),
        ("again", window("sun", "02:30", "02:45"), "2026-10-25 00:50", "2026-10-25 01:30"),
        ("when they are put back", window("sun", "01:00", "02:30"), "2026-10-25 00:45", "2026-10-25 01:00"),
        # New York: 2026-03-08 (07:00 UTC) and 2026-11-01 (06:00 UTC).
        ("gap", window("sun", "02:15", "04:00", NEW_YORK), "2026-03-07 12:00", "2026-03-08 07:00"),
        ("twice", window("sun", "01:30", "03:00", NEW_YORK), "2026-10-31 12:00", "2026-11-01 05:30"),
        ("over midnight", window("sat", "23:00", "03:30", NEW_YORK), "2026-03-07 12:00", "2026-03-08 04:00"),
        # Leap day, new year, a zone with half an hour, and one that moves its clocks by half an hour.
        ("leap day", window("tue", "08:00", "09:00"), "2028-02-28 12:00", "2028-02-29 07:00"),
        ("new year", window("fri", "00:00", "01:00"), "2026-12-31 12:00", "2026-12-31 23:00"),
        ("half", window("mon", "09:00", "10:00", KOLKATA), "2026-03-01 12:00", "2026-03-02 03:30"),
        ("half a gap", window("sun", "02:15", "03:00", HOWE), "2026-10-03 00:00", "2026-10-03 15:30"),
    ],
)
def test_it_opens_when_the_clock_says_so(opening: str, spring: Window, now: str, opens: str) -> None:
    assert spring.opens(at(now)) == at(opens), opening


@given(
    minutes=st.integers(0, 8 * 365 * 24 * 60),
    days=st.sets(st.sampled_from(WEEKDAYS), min_size=1),
    start=st.times(),
    end=st.times(),
    zone=st.sampled_from([BERLIN, NEW_YORK, "UTC", HOWE, "Pacific/Apia"]),
)
def test_it_is_closed_until_it_opens(minutes: int, days: set[str], start: time, end: time, zone: str) -> None:
    """Against the wall clock itself, looked at every eleven minutes."""
    one = Window(
        tuple(days), start.replace(second=0, microsecond=0), end.replace(second=0, microsecond=0), zone
    )
    moment = at("2024-01-01 00:00") + timedelta(minutes=minutes)
    opens = one.opens(moment)
    if one.holds(moment):
        return
    if opens is None:
        assert one.start < one.end, "only an hour that is skipped may fail to open for two weeks"
        return
    assert opens > moment
    assert one.holds(opens)
    assert not one.holds(opens - timedelta(seconds=1))
    step = moment + timedelta(minutes=11)
    while step < opens:
        assert not one.holds(step)
        step += timedelta(minutes=11)


CHRISTMAS = Freeze(at("2026-12-20 00:00"), at("2027-01-02 00:00"), "holidays")
MORE = Freeze(at("2027-01-01 00:00"), at("2027-01-05 00:00"), "stocktaking")


def until(windows: list[Window], freezes: list[Freeze], now: str) -> datetime | None:
    found = closed(windows, freezes, at(now))
    assert isinstance(found, Closed)
    assert found.reason
    return found.until


def test_what_waits_is_told_when_it_goes_on() -> None:
    assert closed([], [], at("2026-03-02 12:00")) is None
    assert closed([OFFICE], [CHRISTMAS], at("2026-03-02 12:00")) is None
    assert until([OFFICE], [], "2026-03-06 16:00") == at("2026-03-09 08:00")
    assert until([], [CHRISTMAS], "2026-12-24 12:00") == at("2027-01-02 00:00")
    assert until([], [MORE, CHRISTMAS], "2026-12-24 12:00") == at("2027-01-05 00:00")
    assert until([OFFICE], [CHRISTMAS], "2026-12-24 12:00") == at("2027-01-04 08:00")
    assert until([OFFICE], [CHRISTMAS, MORE], "2026-12-24 12:00") == at("2027-01-05 08:00")
    assert until([OFFICE, NIGHT], [], "2026-03-06 16:30") == at("2026-03-06 21:00")
    friday = closed([OFFICE], [], at("2026-03-27 18:00"))
    assert friday is not None
    assert friday.reason.endswith("goes on at 2026-03-30 07:00 UTC (Mon 09:00 Europe/Berlin)")
    frozen = closed([], [CHRISTMAS], at("2026-12-24 12:00"))
    assert frozen is not None
    assert "holidays" in frozen.reason


def test_a_freeze_begins_and_ends_on_its_instants() -> None:
    second = timedelta(seconds=1)
    assert closed([], [CHRISTMAS], CHRISTMAS.start - second) is None
    assert closed([], [CHRISTMAS], CHRISTMAS.start) is not None
    assert closed([], [CHRISTMAS], CHRISTMAS.end - second) is not None
    assert closed([], [CHRISTMAS], CHRISTMAS.end) is None


def test_a_window_that_a_freeze_covers_for_weeks_is_found_behind_it() -> None:
    long = Freeze(at("2026-06-01 00:00"), at("2026-08-31 10:00"), "")
    assert until([OFFICE], [long], "2026-06-02 12:00") == at("2026-08-31 10:00")


def test_frozen_time_counts_overlaps_once() -> None:
    since, end = at("2026-12-01 00:00"), at("2027-02-01 00:00")
    assert frozen_time([], since, end) == timedelta(0)
    assert frozen_time([CHRISTMAS], since, end) == 13 * DAY
    assert frozen_time([MORE, CHRISTMAS], since, end) == 16 * DAY
    assert frozen_time([CHRISTMAS], at("2026-12-31 00:00"), end) == 2 * DAY
    assert frozen_time([CHRISTMAS], since, at("2026-12-21 12:00")) == DAY + 12 * HOUR
    assert frozen_time([CHRISTMAS], since, at("2026-12-10 00:00")) == timedelta(0)
