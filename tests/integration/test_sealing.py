"""Deliveries are sealed into the audit chain: all of them, once, whoever seals, crashes or comes late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction

from keyvault import audit, tasks
from keyvault.delivery import asgi, workers
from keyvault.models import AuditEvent, Delivery, SealMark
from keyvault.services import inserting, retention, sealing, usage
from tests.integration.furniture import (
    NOW,
    PATIENCE,
    answered,
    ask,
    at_once,
    broken_at,
    furnish,
    raised,
    returned,
    serving,
    without_guards,
)
from tests.integration.records import Traffic, traffic, until_somebody_asks

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


@pytest.fixture
def reader(db: None) -> Traffic:
    return traffic(furnish())


def seals() -> list[dict[str, Any]]:
    rows = AuditEvent.objects.filter(name=sealing.EVENT).order_by("sequence")
    return list(rows.values_list("details", flat=True))


def test_what_was_delivered_is_in_one_event_of_the_chain(reader: Traffic) -> None:
    rows = [reader.deliver(NOW + n * SECOND) for n in range(3)]
    assert sealing.seal(NOW) == 3
    (sealed,) = seals()
    assert (sealed["last"], sealed["count"]) == (rows[-1].id, 3)
    assert sealing.digest_of(sealed["first"], sealed["last"]) == (3, sealed["sha256"])
    assert broken_at() is None


def test_nothing_is_sealed_twice_and_nothing_is_left_between(reader: Traffic) -> None:
    assert sealing.seal(NOW) == 0
    for n in range(4):
        reader.deliver(NOW + n * SECOND)
        assert sealing.seal(NOW) == 1
        assert sealing.seal(NOW) == 0
    ranges = [(each["first"], each["last"]) for each in seals()]
    assert [first for first, _ in ranges[1:]] == [last + 1 for _, last in ranges[:-1]]
    assert ranges[0][0] == 1


def test_a_long_range_is_sealed_in_parts(reader: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "BATCH", 2)
    first = reader.deliver(NOW).id
    SealMark.objects.create(delivery_id=first - 1)
    for _ in range(4):
        reader.deliver(NOW)
    assert sealing.seal(NOW) == 5
    assert [each["count"] for each in seals()] == [2, 2, 1]


CHANGES: dict[str, dict[str, Any]] = {
    "at": {"at": NOW + timedelta(microseconds=1)},
    "instance": {"instance": "another"},
    "label": {"label": "previous"},
    "credential": {"credential": "access_token"},
    "status": {"status": 304},
    "request": {"request_id": "another"},
    "two texts moved along": {"instance": "web-", "label": "1current"},
    **{name: {name: "00000000-0000-0000-0000-000000000001"} for name in sealing._IDS},
    "id": {"id": 10**9},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_column_of_a_delivery_is_in_the_digest(reader: Traffic, change: dict[str, Any]) -> None:
    rows = [reader.deliver(NOW) for _ in range(3)]
    sealing.seal(NOW)
    (sealed,) = seals()
    with without_guards():
        assert Delivery.objects.filter(pk=rows[1].pk).update(**change) == 1
    assert sealing.digest_of(sealed["first"], sealed["last"]) != (3, sealed["sha256"])


def test_both_databases_give_the_same_text(reader: Traffic) -> None:
    """What moves from one to the other keeps its seals."""
    row = reader.deliver(NOW.replace(microsecond=7), "wörker 🙂")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {sealing._line(connection.vendor)} FROM keyvault_delivery WHERE id = %s", [row.id]
        )
        text = cursor.fetchone()[0]
    ids = "|".join(each.hex for each in (row.key_id, row.version_id, row.consumer_id, row.token_id))
    micros = int(NOW.timestamp()) * 10**6 + 7
    assert text == f"{row.id}|{micros}|200|{ids}|8:wörker 🙂|7:current|14:consumer_token|4:test;"


def test_the_worker_seals_what_a_web_process_left_behind(reader: Traffic) -> None:
    reader.deliver(NOW)
    tasks.roll_up()
    assert [each["count"] for each in seals()] == [1]


def test_a_web_process_seals_what_it_delivers(transactional_db: None) -> None:
    furniture = furnish()
    furniture.key()
    _, secret = furniture.reader()
    assert ask(secret, furniture.service.slug, until=seals).status == 200
    assert [each["count"] for each in seals()] == [1]


def test_a_keyring_that_is_away_for_a_moment_ends_no_sealing(data_dir: Path, transactional_db: None) -> None:
    furniture = furnish()
    furniture.key()
    _, secret = furniture.reader()
    keyring, hidden = data_dir / "keyring.json", data_dir / "hidden.json"

    async def story() -> None:
        assert (await answered(secret, furniture.service.slug)).status == 200
        keyring.rename(hidden)
        try:
            await asgi._the_plane()._seal_now()
        finally:
            hidden.rename(keyring)
        await asgi._the_plane()._seal_now()
        assert [each["count"] for each in await workers.run(seals)] == [1]

    serving(story)


def test_a_web_process_that_ends_seals_the_last_of_it(transactional_db: None) -> None:
    furniture = furnish()
    furniture.key()
    _, secret = furniture.reader()
    assert ask(secret, furniture.service.slug).status == 200
    assert [each["count"] for each in seals()] == [1]


def test_a_crash_between_event_and_mark_leaves_neither(
    reader: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.deliver(NOW)
    record: Callable[..., AuditEvent] = audit.record

    def crash(*args: Any, **details: Any) -> AuditEvent:
        record(*args, **details)
        raise DatabaseError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "record", crash)
        with pytest.raises(DatabaseError, match="crash"):
            sealing.seal(NOW)
    assert seals() == []
    assert sealing.seal(NOW) == 1


@pytest.mark.postgresql
@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_a_delivery_that_is_committed_after_a_later_one_is_sealed_too(transactional_db: None) -> None:
    reader = traffic(furnish())
    inserted, overtaken = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            reader.deliver(NOW, "slow")
            inserted.set()
            assert overtaken.wait(PATIENCE)
            until_somebody_asks()

    def quick() -> int:
        assert inserted.wait(PATIENCE)
        reader.deliver(NOW, "quick")
        overtaken.set()
        return sealing.seal(NOW)

    outcomes = at_once(slow, quick)
    assert not raised(outcomes)
    assert 2 in returned(outcomes)


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_somebody_who_does_not_end_stops_no_delivery(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inserting, "MOST_WAITED", 0.1)
    reader = traffic(furnish())
    inserted, tried = threading.Event(), threading.Event()

    def stuck() -> None:
        with transaction.atomic():
            reader.deliver(NOW, "stuck")
            inserted.set()
            assert tried.wait(PATIENCE)

    def seal() -> None:
        assert inserted.wait(PATIENCE)
        try:
            with pytest.raises(OperationalError, match="does not end"):
                sealing.seal(NOW)
            reader.deliver(NOW, "web-1")
        finally:
            tried.set()

    assert not raised(at_once(stuck, seal))
    assert sealing.seal(NOW) == 2


@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_many_who_seal_at_once_seal_each_delivery_once(transactional_db: None) -> None:
    reader = traffic(furnish())

    def work() -> int:
        done = 0
        for _ in range(10):
            reader.deliver(NOW)
            done += sealing.seal(NOW)
        return done

    outcomes = at_once(*[work] * 4)
    assert not raised(outcomes)
    assert sum(returned(outcomes)) + sealing.seal(NOW) == 40
    assert sum(each["count"] for each in seals()) == 40
    assert broken_at() is None


def test_what_is_forgotten_was_told_before(reader: Traffic, settings: Any) -> None:
    settings.KEYTURN_DELIVERIES_KEPT = 8
    old = [reader.deliver(NOW - 10 * DAY), reader.deliver(NOW - 9 * DAY)]
    reader.deliver(NOW - DAY)
    usage.roll_up()
    assert retention.tidy(NOW)["deliveries"] == 2
    told = AuditEvent.objects.get(name=retention.FORGOTTEN)
    assert told.details == {"last": old[-1].id}
    assert Delivery.objects.count() == 1
    assert retention.tidy(NOW)["deliveries"] == 0
    assert AuditEvent.objects.filter(name=retention.FORGOTTEN).count() == 1


def test_what_a_crash_left_of_the_forgotten_goes_the_next_night(
    reader: Traffic, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEYTURN_DELIVERIES_KEPT = 8
    for _ in range(3):
        reader.deliver(NOW - 10 * DAY)
    usage.roll_up()

    def crash(*_: object) -> int:
        raise DatabaseError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_delete", crash)
        with pytest.raises(DatabaseError, match="crash"):
            retention.tidy(NOW)
    assert Delivery.objects.count() == 3
    assert retention.tidy(NOW)["deliveries"] == 3
    assert AuditEvent.objects.filter(name=retention.FORGOTTEN).count() == 1
