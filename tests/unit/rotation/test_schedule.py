"""When a key is due: intervals, jitter, and dates that leave time for the whole policy."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from rotation.policy import FAST, STANDARD, Freeze, Policy, Step, from_json, to_json
from rotation.schedule import due_before, next_due

ON_TIME = uuid.UUID(int=0)  # no jitter
EARLIEST = uuid.UUID(int=9_999)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MONTHLY = replace(STANDARD, interval=30 * DAY)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "due"),
    [
        ("2026-01-31T12:00+00:00", "2026-03-02T12:00+00:00"),  # on the 31st; February is shorter
        ("2028-01-31T12:00+00:00", "2028-03-01T12:00+00:00"),  # a leap year
        ("2028-02-29T12:00+00:00", "2028-03-30T12:00+00:00"),
        ("2026-12-31T23:59:59+00:00", "2027-01-30T23:59:59+00:00"),
    ],
)
def test_an_interval_is_elapsed_time(start: str, due: str) -> None:
    assert next_due(MONTHLY, ON_TIME, datetime.fromisoformat(start)) == datetime.fromisoformat(due)


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Berlin", datetime(2026, 3, 1, 8, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 10, 10, tzinfo=UTC)),
    ],
)
def test_clocks_that_move_do_not_move_an_interval(zone: str, start: datetime) -> None:
    due = next_due(MONTHLY, ON_TIME, start)
    assert due is not None
    assert due - start == 30 * DAY
    assert due.astimezone(ZoneInfo(zone)).utcoffset() != start.astimezone(ZoneInfo(zone)).utcoffset()


def test_a_herd_spreads_over_five_per_cent_and_each_key_stays_where_it_is() -> None:
    first, last = next_due(MONTHLY, EARLIEST, BEGAN), next_due(MONTHLY, ON_TIME, BEGAN)
    assert first is not None
    assert last is not None
    assert timedelta(hours=35) < last - first < timedelta(hours=36)
    assert next_due(MONTHLY, EARLIEST, BEGAN) == first
    assert next_due(replace(MONTHLY, interval=None), ON_TIME, BEGAN) is None


def test_the_length_of_a_policy_is_what_its_stages_take_at_least() -> None:
    assert STANDARD.length == 80 * timedelta(minutes=1) + 24 * HOUR + 24 * HOUR
    quiet = replace(STANDARD, monitor=timedelta(0))
    assert quiet.length == 80 * timedelta(minutes=1) + 2 * HOUR + 24 * HOUR
    brief = replace(STANDARD, steps=(Step(100, timedelta(0)),), window=timedelta(minutes=1))
    assert brief.length == timedelta(seconds=12) + 48 * HOUR


def test_what_expires_is_due_a_whole_deadline_earlier() -> None:
    ends = BEGAN + 90 * DAY
    assert due_before(STANDARD, BEGAN, ends) == ends - STANDARD.deadline
    slow = replace(STANDARD, monitor=20 * DAY)
    assert due_before(slow, BEGAN, ends) == ends - slow.length


def test_frozen_time_before_the_end_comes_on_top() -> None:
    ends = BEGAN + 90 * DAY
    late = Freeze(ends - 3 * DAY, ends - DAY, "stocktaking")
    early = Freeze(ends - 10 * DAY, ends - 8 * DAY, "holidays")
    assert due_before(replace(STANDARD, freezes=(late,)), BEGAN, ends) == ends - 9 * DAY
    both = replace(STANDARD, freezes=(late, early))
    due = due_before(both, BEGAN, ends)
    assert ends - due - both.frozen_time(due, ends) >= STANDARD.deadline
    assert both.closed(due - timedelta(seconds=1)) is None


def test_a_life_shorter_than_the_policy_does_not_rotate_for_ever() -> None:
    assert due_before(STANDARD, BEGAN, BEGAN + 4 * DAY) == BEGAN + 2 * DAY


@pytest.mark.parametrize("policy", [STANDARD, FAST, replace(STANDARD, max_age=DAY, rehearsal=30 * DAY)])
def test_a_policy_survives_its_json(policy: Policy) -> None:
    assert from_json(to_json(policy)) == policy


def test_rows_of_an_older_release_are_read() -> None:
    document = to_json(STANDARD)
    for name in ("max_age", "rehearsal", "exposure"):
        del document[name]
    document["approvals"] = {"start": 1, "revoke": 0}
    assert from_json(document) == replace(
        STANDARD, approvals={"start": 1, "shift_past_50": 0, "revoke": 0, "force": 0}
    )
