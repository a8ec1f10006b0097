"""Usage reports, the roll-up of deliveries, and the exact counter of requests."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.db.models import Max, Sum

from keyvault.exceptions import KeyturnError
from keyvault.models import (
    ConsumerToken,
    Delivery,
    FoldMark,
    Key,
    KeyVersion,
    RateWindow,
    UsageBucket,
    UsageLine,
)
from keyvault.services import usage
from keyvault.services.usage import LineInput, ReportInput
from tests.integration.furniture import NOW, Furniture, at_once, furnish, raised, returned, second_version

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


class Reader:
    """One key and one consumer that reads it."""

    def __init__(self, furniture: Furniture) -> None:
        self.key: Key = furniture.key()
        assert self.key.current is not None
        self.version: KeyVersion = self.key.current
        self.token: ConsumerToken = furniture.reader()[0]

    def deliver(self, at: datetime, instance: str = "web-1", version: KeyVersion | None = None) -> None:
        usage.record_delivery(
            key=self.key,
            version=version or self.version,
            token=self.token,
            instance=instance,
            label="current",
            credential="consumer_token",
            status=200,
            request_id="test",
            now=at,
        )

    def report(
        self, sequence: int = 1, *, instance: str = "web-1", number: int = 1, **times: datetime
    ) -> bool:
        start, end = times.get("start", NOW - 60 * SECOND), times.get("end", NOW)
        line = LineInput(number, "key", {"ok": 40, "timeout": 2}, jobs_opened=3, jobs_closed=1)
        return usage.accept_report(
            self.token.consumer, self.key, ReportInput(instance, sequence, start, end, [line]), now=NOW
        )


@pytest.fixture
def reader(db: None) -> Reader:
    return Reader(furnish())


# Reports -------------------------------------------------------------------------------------------


def test_a_report_is_stored_once(reader: Reader) -> None:
    reader.deliver(NOW - 90 * SECOND)
    assert reader.report(1) is True
    assert reader.report(1) is False
    assert reader.report(2) is True
    counted = UsageLine.objects.aggregate(ok=Sum("ok"), timeouts=Sum("timeout"), opened=Sum("jobs_opened"))
    assert counted == {"ok": 80, "timeouts": 4, "opened": 6}


def test_the_same_sequence_of_another_instance_is_another_report(reader: Reader) -> None:
    for instance in ("web-1", "web-2"):
        reader.deliver(NOW - 90 * SECOND, instance)
        assert reader.report(1, instance=instance) is True


def refused_field(reader: Reader, **more: object) -> str:
    with pytest.raises(KeyturnError) as caught:
        reader.report(**more)  # type: ignore[arg-type]
    assert caught.value.code == "validation_error"
    assert not UsageLine.objects.exists()
    (field,) = caught.value.fields
    return field


def test_a_version_that_was_never_delivered_there_cannot_be_reported(reader: Reader) -> None:
    second_version(reader.key)
    assert refused_field(reader) == "versions"
    reader.deliver(NOW - 90 * SECOND, "web-2")
    assert refused_field(reader) == "versions"
    reader.deliver(NOW - 90 * SECOND, "web-1")
    assert refused_field(reader, number=2) == "versions"
    assert refused_field(reader, number=99) == "versions"
    assert reader.report() is True


def test_a_delivery_that_was_folded_long_ago_still_counts(reader: Reader) -> None:
    reader.deliver(NOW - timedelta(days=3))
    assert usage.roll_up() == 1
    Delivery.objects.all().delete()
    assert reader.report() is True


def test_a_report_lies_in_the_last_day_and_not_in_the_future(reader: Reader) -> None:
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
    reader = Reader(furnish())
    reader.deliver(NOW - 90 * SECOND)
    outcomes = at_once(*([reader.report] * 8))
    assert not raised(outcomes)
    assert sorted(returned(outcomes)) == [False] * 7 + [True]
    assert UsageLine.objects.count() == 1


# Roll-up -------------------------------------------------------------------------------------------


def test_deliveries_fold_into_minutes_by_version_and_instance(reader: Reader) -> None:
    newer = second_version(reader.key)
    for seconds in (300, 299, 298, 200):
        reader.deliver(NOW - seconds * SECOND)
    reader.deliver(NOW - 299 * SECOND, "web-2")
    reader.deliver(NOW - 299 * SECOND, "web-1", newer)
    assert usage.roll_up() == 6
    rows = UsageBucket.objects.order_by("version__number", "instance", "minute").values_list(
        "version__number", "instance", "deliveries", "last_delivery_at"
    )
    assert list(rows) == [
        (1, "web-1", 3, NOW - 298 * SECOND),
        (1, "web-1", 1, NOW - 200 * SECOND),
        (1, "web-2", 1, NOW - 299 * SECOND),
        (2, "web-1", 1, NOW - 299 * SECOND),
    ]
    assert FoldMark.objects.get().delivery_id == Delivery.objects.aggregate(last=Max("id"))["last"]


def test_nothing_is_folded_twice(reader: Reader) -> None:
    reader.deliver(NOW - 60 * SECOND)
    reader.deliver(NOW - SECOND)
    assert usage.roll_up(batch=1) == 2
    assert usage.roll_up() == 0
    assert UsageBucket.objects.aggregate(n=Sum("deliveries"))["n"] == 2


def test_a_late_delivery_joins_its_bucket_and_does_not_make_it_older(reader: Reader) -> None:
    reader.deliver(NOW - 61 * SECOND)
    usage.roll_up()
    reader.deliver(NOW - 100 * SECOND)
    usage.roll_up()
    (bucket,) = UsageBucket.objects.all()
    assert (bucket.deliveries, bucket.last_delivery_at) == (2, NOW - 61 * SECOND)


def test_old_rate_windows_are_forgotten(db: None) -> None:
    usage.hit("someone", now=NOW - timedelta(minutes=30))
    usage.hit("someone", now=NOW)
    usage.forget_windows(NOW)
    assert RateWindow.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_roll_ups_at_once_fold_each_delivery_once(transactional_db: None) -> None:
    reader = Reader(furnish())
    for round_ in range(5):
        for i in range(120):
            reader.deliver(NOW - (60 + i % 50) * SECOND, f"web-{i % 7}")

        def fold() -> int:
            return usage.roll_up(batch=25)

        outcomes = at_once(*([fold] * 4))
        assert not raised(outcomes)
        assert sum(returned(outcomes)) == 120
        assert UsageBucket.objects.aggregate(n=Sum("deliveries"))["n"] == 120 * (round_ + 1)
    newest = UsageBucket.objects.aggregate(last=Max("last_delivery_at"))["last"]
    assert newest == NOW - 60 * SECOND


# Counting requests ---------------------------------------------------------------------------------


def test_requests_are_counted_by_subject_and_minute(db: None) -> None:
    assert [usage.hit("a", now=NOW + i * SECOND) for i in range(3)] == [1, 2, 3]
    assert usage.hit("b", now=NOW) == 1
    assert usage.hit("a", now=NOW + timedelta(minutes=1)) == 1


@pytest.mark.django_db(transaction=True)
def test_the_count_of_requests_is_exact_under_concurrency(transactional_db: None) -> None:
    threads, each = 12, 20

    def knock() -> list[int]:
        return [usage.hit("someone", now=NOW) for _ in range(each)]

    outcomes = at_once(*([knock] * threads))
    assert not raised(outcomes)
    seen = sorted(n for counts in returned(outcomes) for n in counts)
    assert seen == list(range(1, threads * each + 1)), connection.vendor
