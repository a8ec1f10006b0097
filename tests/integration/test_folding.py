"""The roll-up: deliveries and verifications are folded once, whoever folds, crashes or comes late."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import Max, Sum

from keyvault.models import (
    ConsumerToken,
    Delivery,
    FoldMark,
    LastDelivery,
    UsageBucket,
    Verification,
    VerificationBucket,
)
from keyvault.services import usage
from tests.integration.furniture import NOW, PATIENCE, at_once, furnish, raised, returned
from tests.integration.records import Traffic, traffic, two_versions, until_somebody_asks

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def reader(db: None) -> Traffic:
    return traffic(furnish())


def folded() -> int:
    return UsageBucket.objects.aggregate(n=Sum("deliveries"))["n"] or 0


def verified() -> int:
    return VerificationBucket.objects.aggregate(n=Sum("count"))["n"] or 0


def mark() -> int:
    return FoldMark.objects.get().delivery_id


# Deliveries ----------------------------------------------------------------------------------------


def test_deliveries_fold_into_minutes_by_version_and_instance(db: None) -> None:
    reader, newer = two_versions(furnish())
    for seconds in (300, 299, 298, 200):
        reader.deliver(NOW - seconds * SECOND)
    reader.deliver(NOW - 299 * SECOND, "web-2")
    reader.deliver(NOW - 299 * SECOND, "web-1", newer)
    assert usage.roll_up() == 6
    rows = UsageBucket.objects.order_by("version__number", "instance", "minute")
    columns = ("key_id", "version__number", "instance", "minute", "deliveries", "last_delivery_at")
    key = reader.key.id
    assert list(rows.values_list(*columns)) == [
        (key, 1, "web-1", NOW - 300 * SECOND, 3, NOW - 298 * SECOND),
        (key, 1, "web-1", NOW - 240 * SECOND, 1, NOW - 200 * SECOND),
        (key, 1, "web-2", NOW - 300 * SECOND, 1, NOW - 299 * SECOND),
        (key, 2, "web-1", NOW - 300 * SECOND, 1, NOW - 299 * SECOND),
    ]
    last = LastDelivery.objects.order_by("version__number", "instance")
    assert list(last.values_list("key_id", "version__number", "instance", "last_at")) == [
        (key, 1, "web-1", NOW - 200 * SECOND),
        (key, 1, "web-2", NOW - 299 * SECOND),
        (key, 2, "web-1", NOW - 299 * SECOND),
    ]
    assert mark() == Delivery.objects.aggregate(last=Max("id"))["last"]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_nothing_is_folded_twice(reader: Traffic, batch: int) -> None:
    for n in range(5):
        reader.deliver(NOW - n * 20 * SECOND, f"web-{n % 2}")
    assert usage.roll_up(batch=batch) == 5
    assert usage.roll_up(batch=batch) == 0
    assert folded() == 5


def test_ids_may_have_gaps(reader: Traffic) -> None:
    for n in range(6):
        row = reader.deliver(NOW - n * SECOND)
        if n % 3:
            row.delete()
    assert usage.roll_up(batch=1) == 2
    assert folded() == 2


def test_a_replayed_delivery_joins_the_minute_of_its_time(reader: Traffic) -> None:
    reader.deliver(NOW - SECOND)
    reader.deliver(NOW - 3 * MINUTE)
    usage.roll_up()
    # The database was away: this one was answered long ago and is written down only now.
    reader.deliver(NOW - 3 * MINUTE - SECOND)
    reader.deliver(NOW - 3 * MINUTE + SECOND)
    assert usage.roll_up() == 2
    rows = UsageBucket.objects.order_by("minute")
    assert list(rows.values_list("minute", "deliveries", "last_delivery_at")) == [
        (NOW - 4 * MINUTE, 1, NOW - 3 * MINUTE - SECOND),
        (NOW - 3 * MINUTE, 2, NOW - 3 * MINUTE + SECOND),
        (NOW - MINUTE, 1, NOW - SECOND),
    ]
    assert LastDelivery.objects.get().last_at == NOW - SECOND
    assert used_at(reader) == NOW - SECOND


def used_at(reader: Traffic) -> object:
    return ConsumerToken.objects.get(pk=reader.token.pk).last_used_at


def test_tokens_learn_when_they_were_last_used(reader: Traffic) -> None:
    other = traffic(furnish())
    reader.deliver(NOW - 2 * MINUTE)
    reader.deliver(NOW - MINUTE, "web-2")
    reader.deliver(NOW - 3 * MINUTE)
    assert used_at(reader) is None
    usage.roll_up()
    assert used_at(reader) == NOW - MINUTE
    assert used_at(other) is None
    ConsumerToken.objects.filter(pk=reader.token.pk).update(last_used_at=NOW)
    reader.deliver(NOW - SECOND)
    usage.roll_up()
    assert used_at(reader) == NOW


# Verifications -------------------------------------------------------------------------------------


def test_verifications_fold_by_caller_and_result_and_are_gone(db: None) -> None:
    reader, newer = two_versions(furnish())
    caller = reader.consumer
    reader.verify(NOW - 90 * SECOND, by=caller, count=3)
    reader.verify(NOW - 70 * SECOND, by=caller)
    reader.verify(NOW - 70 * SECOND, "rate_limited", by=caller)
    reader.verify(NOW - 70 * SECOND, count=5)
    reader.verify(NOW - 10 * SECOND, version=newer)
    assert usage.roll_up(batch=2) == 0
    reader.verify(NOW - 80 * SECOND, by=caller)
    usage.roll_up()
    assert not Verification.objects.exists()
    rows = VerificationBucket.objects.order_by("version__number", "caller", "code")
    columns = ("version__number", "caller", "code", "minute", "count", "last_at")
    early, late = NOW - 2 * MINUTE, NOW - MINUTE
    assert list(rows.values_list(*columns)) == [
        (1, caller.slug, "rate_limited", early, 1, NOW - 70 * SECOND),
        (1, caller.slug, "valid", early, 5, NOW - 70 * SECOND),
        (1, "forward-auth", "valid", early, 5, NOW - 70 * SECOND),
        (2, "forward-auth", "valid", late, 1, NOW - 10 * SECOND),
    ]


# Twins, crashes and latecomers -----------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_roll_ups_at_once_fold_each_row_once(transactional_db: None) -> None:
    reader = traffic(furnish())
    for round_ in range(1, 6):
        for i in range(120):
            reader.deliver(NOW - (60 + i % 50) * SECOND, f"web-{i % 7}")
            reader.verify(NOW - i * SECOND, by=reader.consumer if i % 2 else None)

        def fold() -> int:
            return usage.roll_up(batch=25)

        outcomes = at_once(*([fold] * 4))
        assert not raised(outcomes)
        assert sum(returned(outcomes)) == 120
        assert (folded(), verified()) == (120 * round_, 120 * round_)
    assert not Verification.objects.exists()
    assert UsageBucket.objects.aggregate(last=Max("last_delivery_at"))["last"] == NOW - MINUTE


@contextmanager
def crashing(table: str, event: str, when: str) -> Iterator[None]:
    """The database breaks off every transaction that does this to a row of this table."""
    undo = ["DROP TRIGGER crash"]
    if connection.vendor == "sqlite":
        do = [
            f"CREATE TRIGGER crash BEFORE {event} ON {table} WHEN {when} "
            "BEGIN SELECT RAISE(ABORT, 'crash'); END"
        ]
    else:
        body = "BEGIN RAISE EXCEPTION 'crash'; END"
        do = [
            f"CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
            f"CREATE TRIGGER crash BEFORE {event} ON {table} FOR EACH ROW WHEN ({when}) "
            "EXECUTE FUNCTION crash()",
        ]
        undo = [f"DROP TRIGGER crash ON {table}", "DROP FUNCTION crash()"]
    with connection.cursor() as cursor:
        for statement in do:
            cursor.execute(statement)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            for statement in undo:
                cursor.execute(statement)


@pytest.mark.django_db(transaction=True)
def test_a_crash_between_folding_and_the_mark_folds_nothing_twice(transactional_db: None) -> None:
    reader = traffic(furnish())
    ids = [reader.deliver(NOW - n * SECOND).id for n in range(10)]
    with (
        crashing("keyvault_foldmark", "UPDATE", f"NEW.delivery_id >= {ids[5]}"),
        pytest.raises(DatabaseError, match="crash"),
    ):
        usage.roll_up(batch=2)
    assert (folded(), mark()) == (4, ids[3])
    assert usage.roll_up(batch=3) == 6
    assert (folded(), mark()) == (10, ids[-1])


@pytest.mark.django_db(transaction=True)
def test_a_crash_between_counting_and_deleting_verifications_counts_none_twice(
    transactional_db: None,
) -> None:
    reader = traffic(furnish())
    rows = [reader.verify(NOW - n * SECOND) for n in range(6)]
    with (
        crashing("keyvault_verification", "DELETE", f"OLD.id = {rows[3].id}"),
        pytest.raises(DatabaseError, match="crash"),
    ):
        usage.roll_up(batch=2)
    assert (verified(), Verification.objects.count()) == (2, 4)
    usage.roll_up(batch=2)
    assert (verified(), Verification.objects.count()) == (6, 0)


def until_somebody_waits() -> None:
    """Until a connection to this database waits for a lock that another one holds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if cursor.fetchone() is not None:
                return
        threading.Event().wait(0.005)
    raise AssertionError("Nobody waits for anybody.")


@pytest.mark.postgresql
@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_a_delivery_that_is_committed_after_a_later_one_is_not_lost(transactional_db: None) -> None:
    reader = traffic(furnish())
    inserted, overtaken = threading.Event(), threading.Event()

    def slow() -> int:
        with transaction.atomic():
            row = reader.deliver(NOW - 5 * SECOND, "slow")  # has its id now, and is not committed
            inserted.set()
            assert overtaken.wait(PATIENCE)
            until_somebody_asks()
        return row.id

    def quick() -> int:
        assert inserted.wait(PATIENCE)
        row = reader.deliver(NOW - SECOND, "quick")
        overtaken.set()
        assert usage.roll_up() == 2
        return row.id

    outcomes = at_once(slow, quick)
    assert not raised(outcomes)
    early, late = returned(outcomes)
    assert early < late == mark()
    assert set(LastDelivery.objects.values_list("instance", flat=True)) == {"slow", "quick"}
    assert (usage.roll_up(), folded()) == (0, 2)


@pytest.mark.postgresql
@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_a_verification_that_is_committed_while_later_ones_fold_is_not_lost(transactional_db: None) -> None:
    reader = traffic(furnish())
    reader.verify(NOW - SECOND)
    usage.roll_up()
    held, inserted, committed = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            VerificationBucket.objects.select_for_update().get()  # so that folding stops in the middle
            held.set()
            assert committed.wait(PATIENCE)

    def slow() -> None:
        assert held.wait(PATIENCE)
        with transaction.atomic():
            reader.verify(NOW - SECOND, count=2)  # has its id now, and is not committed
            inserted.set()
            until_somebody_waits()
        committed.set()

    def quick() -> None:
        assert inserted.wait(PATIENCE)
        reader.verify(NOW - SECOND, count=3)
        usage.roll_up()

    outcomes = at_once(hold, slow, quick)
    assert not raised(outcomes)
    usage.roll_up()
    assert (verified(), Verification.objects.count()) == (6, 0)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_somebody_who_does_not_end_holds_up_neither_delivery_nor_later_folding(
    transactional_db: None,
) -> None:
    reader = traffic(furnish())
    inserted, tried = threading.Event(), threading.Event()

    def stuck() -> None:
        with transaction.atomic():
            reader.deliver(NOW - 5 * SECOND, "stuck")
            inserted.set()
            assert tried.wait(PATIENCE)

    def fold() -> None:
        assert inserted.wait(PATIENCE)
        try:
            with pytest.raises(OperationalError, match="does not end"):
                usage.roll_up()
            reader.deliver(NOW - SECOND, "web-1")
        finally:
            tried.set()

    outcomes = at_once(stuck, fold)
    assert not raised(outcomes)
    assert folded() == 0
    assert usage.roll_up() == 2
