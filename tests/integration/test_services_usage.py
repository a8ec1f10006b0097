"""Usage reports, and the jobs that they leave open."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import Max, Sum

from keyvault import jobs
from keyvault.exceptions import KeyturnError
from keyvault.models import Delivery, OpenJobs, UsageLine
from keyvault.services import usage
from keyvault.services.usage import LineInput
from tests.integration.furniture import NOW, at_once, furnish, raised, returned, second_version
from tests.integration.records import Traffic, traffic, two_versions

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def reader(db: None) -> Traffic:
    return traffic(furnish())


# Reports -------------------------------------------------------------------------------------------


def test_a_report_is_stored_once(reader: Traffic) -> None:
    reader.deliver(NOW - 90 * SECOND)
    assert reader.report(1) is True
    assert reader.report(1) is False
    assert reader.report(2) is True
    counted = UsageLine.objects.aggregate(ok=Sum("ok"), timeouts=Sum("timeout"))
    assert counted == {"ok": 80, "timeouts": 4}


def test_the_same_sequence_of_another_instance_is_another_report(reader: Traffic) -> None:
    for instance in ("web-1", "web-2"):
        reader.deliver(NOW - 90 * SECOND, instance)
        assert reader.report(1, instance=instance) is True


def refused_field(reader: Traffic, **more: object) -> str:
    with pytest.raises(KeyturnError) as caught:
        reader.report(**more)  # type: ignore[arg-type]
    assert caught.value.code == "validation_error"
    assert not UsageLine.objects.exists()
    assert not OpenJobs.objects.exists()
    (field,) = caught.value.fields
    return field


@pytest.mark.parametrize("folded", [False, True])
def test_a_version_that_was_never_delivered_there_cannot_be_reported(reader: Traffic, folded: bool) -> None:
    def deliver(instance: str) -> None:
        reader.deliver(NOW - 90 * SECOND, instance)
        if folded:
            assert usage.roll_up() == 1

    second_version(reader.key)
    assert refused_field(reader) == "versions"
    deliver("web-2")
    assert refused_field(reader) == "versions"
    deliver("web-1")
    for number in (2, 99):
        assert refused_field(reader, lines=(LineInput(number, "key", {"ok": 1}),)) == "versions"
    assert reader.report() is True


def test_a_report_may_name_a_folded_version_and_one_of_just_now(reader: Traffic) -> None:
    newer = second_version(reader.key)
    reader.deliver(NOW - 3 * HOUR)
    usage.roll_up()
    reader.deliver(NOW - SECOND, version=newer)
    assert reader.report(lines=(LineInput(1, "key", {"ok": 1}), LineInput(2, "key", {"ok": 1})))


def test_a_delivery_that_was_folded_long_ago_still_counts(reader: Traffic) -> None:
    reader.deliver(NOW - timedelta(days=3))
    assert usage.roll_up() == 1
    Delivery.objects.all().delete()
    assert reader.report() is True


def test_a_report_lies_in_the_last_day_and_not_in_the_future(reader: Traffic) -> None:
    reader.deliver(NOW - timedelta(days=2))
    assert refused_field(reader, start=NOW, end=NOW + timedelta(minutes=5, seconds=1)) == "to"
    assert refused_field(reader, start=NOW - timedelta(hours=24, seconds=1)) == "from"
    assert refused_field(reader, start=NOW, end=NOW - SECOND) == "to"
    assert reader.report(1, start=NOW - timedelta(hours=24)) is True
    assert reader.report(2, start=NOW, end=NOW + timedelta(minutes=5)) is True
    # A clock that runs ahead does not make the evidence younger than it is.
    assert UsageLine.objects.aggregate(Max("to_at"))["to_at__max"] == NOW


@pytest.mark.django_db(transaction=True)
def test_the_same_report_from_many_threads_counts_once(transactional_db: None) -> None:
    reader = traffic(furnish())
    reader.deliver(NOW - 90 * SECOND)

    def tell() -> bool:
        return reader.report(lines=(opened(3),))

    outcomes = at_once(*([tell] * 8))
    assert not raised(outcomes)
    assert sorted(returned(outcomes)) == [False] * 7 + [True]
    assert UsageLine.objects.count() == 1
    assert OpenJobs.objects.get().open == 3


# Open jobs -----------------------------------------------------------------------------------------


def opened(n: int, closed: int = 0, *, number: int = 1, credential: str = "key") -> LineInput:
    return LineInput(number, credential, {"ok": 1}, jobs_opened=n, jobs_closed=closed)


def test_jobs_add_up_over_reports_and_credentials(reader: Traffic) -> None:
    reader.deliver(NOW - HOUR)
    reader.report(1, end=NOW - 30 * SECOND, lines=(opened(5, 1), opened(2, credential="access_token")))
    reader.report(1, end=NOW, lines=(opened(100),))  # known already
    reader.report(2, end=NOW - 20 * SECOND, lines=(opened(0, 3),))
    (row,) = jobs.open_jobs_of([reader.version.id])
    assert row[1:] == (reader.version.id, reader.consumer.id, "web-1", 3, NOW - 20 * SECOND)
    assert jobs.open_jobs(reader.version.id, NOW - HOUR) == {
        (reader.consumer.slug, "web-1"): NOW - 20 * SECOND
    }
    reader.report(3, lines=(opened(0, 3),))
    assert jobs.open_jobs(reader.version.id, NOW - HOUR) == {}
    assert OpenJobs.objects.get().open == 0


def has_jobs(reader: Traffic, since: timedelta, instance: str = "web-1") -> bool:
    return jobs.has_open_jobs(reader.version.id, reader.consumer.id, instance, NOW - since)


def test_reports_may_come_in_any_order(reader: Traffic) -> None:
    reader.deliver(NOW - HOUR)
    reader.report(2, lines=(opened(0, 2),))
    assert not has_jobs(reader, HOUR)
    reader.report(1, end=NOW - 600 * SECOND, lines=(opened(3),))
    assert has_jobs(reader, HOUR)
    row = OpenJobs.objects.get()
    assert (row.open, row.last_to_at) == (1, NOW)


def test_jobs_of_an_instance_that_is_silent_are_too_old_to_matter(reader: Traffic) -> None:
    reader.deliver(NOW - 3 * HOUR)
    reader.report(1, end=NOW - 2 * HOUR, lines=(opened(1),))
    assert has_jobs(reader, 3 * HOUR)
    assert not has_jobs(reader, 2 * HOUR)
    # A report that tells of no jobs says all the same that the instance lives.
    reader.report(2, end=NOW - SECOND, lines=(opened(0),))
    assert has_jobs(reader, 2 * HOUR)
    # One that comes late does not make it older.
    reader.report(3, end=NOW - HOUR, lines=(opened(1, 1),))
    assert OpenJobs.objects.get().last_to_at == NOW - SECOND


def test_jobs_belong_to_one_version_and_one_instance(db: None) -> None:
    reader, newer = two_versions(furnish())
    for instance, version in (("web-1", None), ("web-1", newer), ("web-2", None)):
        reader.deliver(NOW - HOUR, instance, version)
    reader.report(1, lines=(opened(4), opened(1, 1, number=2)))
    assert has_jobs(reader, HOUR)
    assert not has_jobs(reader, HOUR, "web-2")
    assert jobs.open_jobs(newer.id, NOW - HOUR) == {}
    assert jobs.open_jobs_of([newer.id]) == []


def test_reports_without_jobs_leave_no_row(reader: Traffic) -> None:
    reader.deliver(NOW - HOUR)
    reader.report(1)
    reader.report(2, lines=(opened(2, 2),))
    assert not OpenJobs.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_jobs_of_reports_at_once_all_count(transactional_db: None) -> None:
    reader, newer = two_versions(furnish())
    reader.deliver(NOW - HOUR)
    reader.deliver(NOW - HOUR, version=newer)

    def tell(sequence: int) -> bool:
        lines = (opened(2, number=1), opened(3, number=2))
        return reader.report(sequence, lines=lines if sequence % 2 else lines[::-1])

    outcomes = at_once(*(lambda n=n: tell(n) for n in range(12)))
    assert not raised(outcomes)
    counted = dict(OpenJobs.objects.values_list("version_id", "open"))
    assert counted == {reader.version.id: 24, newer.id: 36}
