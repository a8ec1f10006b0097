"""Who was given a key, who verified it, and what follows for the quiet proof: folded or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyvault import readers, verifiers
from keyvault.models import KeyVersion
from keyvault.services import usage
from keyvault.services.usage import LineInput
from rotation.console.standing import last_used
from rotation.console.traffic import traffic as chart
from rotation.models import Rotation
from rotation.observe import observe
from rotation.plan import plan
from rotation.policy import STANDARD, Policy, to_json
from rotation.proof import offenders
from tests.integration.furniture import NOW, Furniture, furnish, reread, second_version
from tests.integration.records import Traffic, traffic

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def house(db: None) -> Furniture:
    return furnish()


@pytest.fixture
def reader(house: Furniture) -> Traffic:
    return traffic(house)


@pytest.fixture
def newer(reader: Traffic) -> KeyVersion:
    return second_version(reader.key)


def nothing() -> None:
    """Leave everything as it was appended."""


def fold() -> None:
    usage.roll_up()


# Between the first half of the rows and the second, and at the end.
FOLDING = pytest.mark.parametrize(
    ("half", "end"), [(nothing, nothing), (fold, nothing), (fold, fold)], ids=["tail", "both", "folded"]
)
Step = Callable[[], None]


# Deliveries ----------------------------------------------------------------------------------------


@FOLDING
def test_readers_are_counted_once(reader: Traffic, newer: KeyVersion, half: Step, end: Step) -> None:
    slug = reader.consumer.slug
    reader.deliver(NOW - 2 * DAY, "gone")
    reader.deliver(NOW - 3 * MINUTE)
    reader.deliver(NOW - 2 * MINUTE)
    half()
    reader.deliver(NOW - 2 * MINUTE + SECOND)
    reader.deliver(NOW - MINUTE, "web-2", newer)
    end()
    found = sorted(readers.given(reader.key.id, NOW - DAY), key=lambda row: row.instance)
    assert found == [
        readers.Reader(slug, "web-1", reader.version.id, 1, 3, NOW - 2 * MINUTE + SECOND),
        readers.Reader(slug, "web-2", newer.id, 2, 1, NOW - MINUTE),
    ]
    assert readers.last_given(reader.key.id, NOW - DAY) == {
        reader.version.id: {(slug, "web-1"): NOW - 2 * MINUTE + SECOND},
        newer.id: {(slug, "web-2"): NOW - MINUTE},
    }
    other = traffic(furnish())
    wanted = [reader.key.id, other.key.id]
    assert readers.last_of_keys(wanted, NOW - DAY) == {reader.key.id: NOW - MINUTE}
    assert readers.last_of_keys(wanted, NOW) == {}
    counted: dict[object, int] = {}
    for version_id, minute, n in readers.per_minute(reader.key.id, NOW - 3 * MINUTE, NOW):
        counted[(version_id, minute)] = counted.get((version_id, minute), 0) + n
    assert counted == {
        (reader.version.id, NOW - 3 * MINUTE): 1,
        (reader.version.id, NOW - 2 * MINUTE): 2,
        (newer.id, NOW - MINUTE): 1,
    }


@FOLDING
def test_the_time_since_which_one_looks_is_exact(reader: Traffic, half: Step, end: Step) -> None:
    reader.deliver(NOW - 30 * SECOND, "before")
    half()
    reader.deliver(NOW - 20 * SECOND, "after")
    end()
    since = NOW - 25 * SECOND
    assert [row.instance for row in readers.given(reader.key.id, since)] == ["after"]
    assert [name for _, name in readers.last_given(reader.key.id, since)[reader.version.id]] == ["after"]


def test_another_key_is_not_looked_at(reader: Traffic) -> None:
    other = traffic(furnish())
    other.deliver(NOW - SECOND)
    assert readers.given(reader.key.id, NOW - DAY) == []
    assert readers.last_given(reader.key.id, NOW - DAY) == {}
    assert list(readers.per_minute(reader.key.id, NOW - DAY, NOW)) == []


# Verifications -------------------------------------------------------------------------------------


@FOLDING
def test_verifiers_are_counted_once(reader: Traffic, newer: KeyVersion, half: Step, end: Step) -> None:
    caller = reader.consumer
    reader.verify(NOW - 3 * MINUTE, count=2, by=caller)
    reader.verify(NOW - 3 * MINUTE, "disabled")
    half()
    reader.verify(NOW - 2 * MINUTE, count=3, by=caller)
    reader.verify(NOW - MINUTE, "rate_limited", by=caller)
    reader.verify(NOW - MINUTE, version=newer)
    end()
    old = reader.version.id
    found = verifiers.verified([old, newer.id], NOW - HOUR)
    assert len(found) == 4
    assert set(found) == {
        verifiers.Verifier("forward-auth", old, "disabled", 1, NOW - 3 * MINUTE),
        verifiers.Verifier(caller.slug, old, "valid", 5, NOW - 2 * MINUTE),
        verifiers.Verifier(caller.slug, old, "rate_limited", 1, NOW - MINUTE),
        verifiers.Verifier("forward-auth", newer.id, "valid", 1, NOW - MINUTE),
    }
    assert verifiers.last_used(old, NOW - HOUR) == {caller.slug: NOW - MINUTE}
    assert verifiers.last_of_versions([old, newer.id], NOW - HOUR) == {
        old: NOW - MINUTE,
        newer.id: NOW - MINUTE,
    }
    assert verifiers.last_of_versions([old, newer.id], NOW - MINUTE) == {}


# The quiet proof -----------------------------------------------------------------------------------


def rotation(reader: Traffic, newer: KeyVersion, policy: Policy = STANDARD) -> Rotation:
    """One in which everybody has the incoming version; not in the database."""
    return Rotation(
        key=reread(reader.key),
        outgoing=reader.version,
        incoming=newer,
        stage="monitor",
        policy=to_json(policy),
        created_at=NOW - DAY,
        stage_entered_at=NOW - DAY,
        step_entered_at=NOW - DAY,
        deadline_at=NOW + DAY,
    )


def who(reader: Traffic, newer: KeyVersion, policy: Policy = STANDARD) -> dict[str, str]:
    return {one.who: one.why for one in offenders(rotation(reader, newer, policy), policy, NOW)}


@FOLDING
def test_a_version_is_quiet_when_everybody_has_moved(
    reader: Traffic, newer: KeyVersion, half: Step, end: Step
) -> None:
    slug = reader.consumer.slug
    reader.deliver(NOW - 8 * DAY, "old-pod")
    reader.deliver(NOW - 3 * HOUR, "web-1")
    half()
    reader.deliver(NOW - 3 * HOUR, "web-2")
    reader.deliver(NOW - HOUR, "web-2", newer)
    end()
    assert who(reader, newer) == {
        f"{slug}/web-1": "not seen on the incoming version since 2026-03-02 06:00 UTC"
    }
    reader.deliver(NOW - HOUR, "web-1", newer)
    assert who(reader, newer) == {}
    reader.deliver(NOW - 13 * MINUTE, "web-1")
    assert who(reader, newer) == {f"{slug}/web-1": "last seen on v1 13 min ago"}


def test_quiet_may_take_longer_than_an_instance_is_active(reader: Traffic, newer: KeyVersion) -> None:
    patient = replace(STANDARD, quiet=10 * DAY)
    reader.deliver(NOW - 8 * DAY)
    reader.deliver(NOW - HOUR, version=newer)
    usage.roll_up()
    assert who(reader, newer, patient) == {f"{reader.consumer.slug}/web-1": "last seen on v1 8 d ago"}
    assert who(reader, newer) == {}


def test_an_incoming_version_of_before_the_rotation_does_not_prove_a_move(
    reader: Traffic, newer: KeyVersion
) -> None:
    reader.deliver(NOW - 3 * HOUR)
    reader.deliver(NOW - 25 * HOUR, version=newer)
    assert len(who(reader, newer)) == 1


@FOLDING
@pytest.mark.parametrize("code", ["valid", "rate_limited"])
def test_a_verified_key_is_in_use(
    reader: Traffic, newer: KeyVersion, code: str, half: Step, end: Step
) -> None:
    reader.verify(NOW - 3 * HOUR, code)  # longer ago than the quiet time
    half()
    reader.verify(NOW - 50 * MINUTE, code, by=reader.consumer)
    reader.verify(NOW - 90 * SECOND, code)
    reader.verify(NOW - SECOND, version=newer)
    end()
    assert who(reader, newer) == {
        f"verified by {reader.consumer.slug}": "last seen on v1 50 min ago",
        "verified by forward-auth": "last seen on v1 1 min ago",
    }


@pytest.mark.parametrize("code", ["revoked", "expired", "disabled"])
def test_a_key_that_is_refused_already_is_not_in_use(reader: Traffic, newer: KeyVersion, code: str) -> None:
    reader.verify(NOW - SECOND, code)
    assert who(reader, newer) == {}
    usage.roll_up()
    assert who(reader, newer) == {}


@FOLDING
def test_open_jobs_stand_in_the_way(house: Furniture, half: Step, end: Step) -> None:
    house.provider.key_affine, house.provider.max_job_age_seconds = True, 4 * 3600
    house.provider.save()
    reader = traffic(house)
    newer = second_version(reader.key)
    reader.deliver(NOW - 4 * HOUR)
    half()
    reader.deliver(NOW - HOUR, version=newer)
    end()
    assert who(reader, newer) == {}
    reader.report(end=NOW - 3 * HOUR, lines=(LineInput(1, "key", {}, jobs_opened=1),))
    assert who(reader, newer) == {f"{reader.consumer.slug}/web-1": "has jobs open under v1"}


@FOLDING
def test_shares_and_instances_are_those_of_the_window(
    reader: Traffic, newer: KeyVersion, half: Step, end: Step
) -> None:
    row = rotation(reader, newer)
    row.save()
    reader.deliver(NOW - HOUR, "gone")
    reader.deliver(NOW - 2 * MINUTE, "web-1")
    half()
    for n in range(3):
        reader.deliver(NOW - n * SECOND, "web-2", newer)
    end()
    seen = observe(row, NOW)
    assert (seen.instances, seen.shares.delivered) == (2, 75.0)


# Plan and console ----------------------------------------------------------------------------------


@FOLDING
def test_the_plan_names_the_instances_of_the_last_days(reader: Traffic, half: Step, end: Step) -> None:
    reader.deliver(NOW - 8 * DAY, "old-pod")
    reader.deliver(NOW - 6 * DAY, "web-1")
    half()
    reader.deliver(NOW - SECOND, "web-2")
    end()
    steps = plan(reread(reader.key), STANDARD, "standard", now=NOW).steps
    named = {one.instance for step in steps for one in step.instances}
    assert named == {"web-1", "web-2"}


@FOLDING
def test_a_key_was_last_used_when_it_was_delivered_or_verified(
    reader: Traffic, half: Step, end: Step
) -> None:
    key = reread(reader.key)
    assert last_used([key], NOW) == {}
    reader.verify(NOW - 2 * HOUR)
    half()
    reader.verify(NOW - MINUTE, "expired")
    assert last_used([key], NOW) == {key.id: NOW - 2 * HOUR}
    reader.deliver(NOW - HOUR)
    end()
    assert last_used([key], NOW) == {key.id: NOW - HOUR}


@FOLDING
def test_deliveries_are_drawn_by_the_minute_where_nobody_reports(
    reader: Traffic, newer: KeyVersion, half: Step, end: Step
) -> None:
    row = rotation(reader, newer)
    row.created_at = NOW - 10 * MINUTE - 40 * SECOND
    assert chart(row, (), NOW) is None
    reader.deliver(NOW - 10 * MINUTE, "web-1")
    reader.deliver(NOW - 3 * MINUTE - SECOND, "web-1")
    half()
    reader.deliver(NOW - 3 * MINUTE + SECOND, "web-1", newer)
    reader.deliver(NOW - 2 * SECOND, "web-1", newer)
    end()
    drawn = chart(row, (), NOW)
    assert drawn is not None
    assert (drawn.unit, drawn.slice) == ("deliveries", "1 min")
    assert [(rect.kind, rect.height) for rect in drawn.rects] == [
        ("old", "184.0"),
        ("old", "184.0"),
        ("new", "184.0"),
        ("new", "184.0"),
    ]
    assert drawn.summary.startswith("4 deliveries: 2 with the outgoing key, 2 with the incoming key")
