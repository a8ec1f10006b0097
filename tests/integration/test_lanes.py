"""The lane to the database of this run: what was sent is there, whole, or nothing is."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection

from keyvault.delivery import lane_postgresql, lane_sqlite
from keyvault.delivery.lane import FLUSH_SECONDS, Lane, Outcome, Unavailable
from keyvault.delivery.lane_postgresql import PostgreSQLLane
from keyvault.delivery.lane_sqlite import SQLiteLane
from keyvault.delivery.rows import Batch, DeliveryRow, VerificationRow
from keyvault.models import Change, ChangeCounter, ConsumerToken, Delivery, Verification
from keyvault.services.inserting import INSERTING
from tests.integration.furniture import PATIENCE, Furniture, furnish
from tests.integration.processes import wait_for

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)
Story = Callable[[Lane], Awaitable[None]]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may take as long as a busy machine needs, unless a test says otherwise."""
    for module in (lane_postgresql, lane_sqlite):
        monkeypatch.setattr(module, "FLUSH_SECONDS", PATIENCE)


def some_id() -> bytes:
    return uuid.uuid4().bytes


def row(name: str, **more: Any) -> DeliveryRow:
    plain = DeliveryRow(
        NOW, some_id(), some_id(), some_id(), some_id(), "web-1", "current", "consumer_token", 200, name
    )
    return plain._replace(**more)


def batch_of(*rows: DeliveryRow | VerificationRow) -> Batch:
    batch = Batch()
    for one in rows:
        batch.add(one)
    return batch


def tell(story: Story) -> None:
    async def whole() -> None:
        lane: Lane = SQLiteLane() if connection.vendor == "sqlite" else PostgreSQLLane()
        await lane.open()
        assert lane.connected
        try:
            await story(lane)
        finally:
            await lane.close()
        assert not lane.connected

    asyncio.run(whole())


async def send(lane: Lane, seen: int, batch: Batch) -> Outcome | Unavailable:
    told: asyncio.Future[Outcome | Unavailable] = asyncio.get_running_loop().create_future()

    def done(answered: Lane, outcome: Outcome | Unavailable) -> None:
        assert answered is lane
        told.set_result(outcome)

    lane.send(seen, batch, done)
    assert not told.done(), "it answers later, never at once"
    return await asyncio.wait_for(told, PATIENCE)


def reset_log() -> int:
    """The log starts anew; returns the number that it stands at."""
    Change.objects.all().delete()
    ChangeCounter.objects.all().delete()
    ChangeCounter.objects.create(seq=7)
    return 7


def columns(model: type[Any], *names: str) -> list[tuple[Any, ...]]:
    found = model.objects.order_by("id").values_list(*names)
    return [tuple(value.bytes if isinstance(value, uuid.UUID) else value for value in one) for one in found]


def test_every_value_arrives_as_it_was(transactional_db: None) -> None:
    rows = [
        row("plain"),
        row("", instance="", label="", credential=""),
        row("é-日本-\u00ff", instance="x" * 128, label="y" * 16),
        row("r" * 64, status=304, at=datetime(1970, 1, 1, tzinfo=UTC)),
        row("late", status=0, at=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        row("small", status=32767, key_id=bytes(16), version_id=b"\xff" * 16),
        row("zone", at=NOW.astimezone(tz=None)),
        row("quote", instance="{\"'\\,;--NULL}", label="NULL"),
    ]
    reset_log()

    async def story(lane: Lane) -> None:
        outcome = await send(lane, 7, batch_of(*rows))
        assert isinstance(outcome, Outcome)
        assert outcome.seq == 7

    tell(story)
    assert columns(Delivery, *DeliveryRow._fields) == [tuple(one) for one in rows]


def test_verifications_arrive_with_and_without_a_consumer(transactional_db: None) -> None:
    version, consumer = some_id(), some_id()
    told = [
        VerificationRow(NOW, version, consumer, "valid"),
        VerificationRow(NOW, version, consumer, "valid"),
        VerificationRow(NOW, version, None, "rate_limited"),
    ]
    reset_log()

    async def story(lane: Lane) -> None:
        assert isinstance(await send(lane, 7, batch_of(*told)), Outcome)
        assert isinstance(await send(lane, 7, batch_of(row("both"), told[0])), Outcome)
        assert isinstance(await send(lane, 7, batch_of(told[2])), Outcome)

    tell(story)
    names = ("at", "version_id", "consumer_id", "code", "count")
    assert columns(Verification, *names) == [
        (NOW, version, consumer, "valid", 2),
        (NOW, version, None, "rate_limited", 1),
        (NOW, version, consumer, "valid", 1),
        (NOW, version, None, "rate_limited", 1),
    ]
    assert Delivery.objects.count() == 1


@pytest.mark.parametrize("count", [1, 2, 255, 2000])
def test_batches_of_every_size(transactional_db: None, count: int) -> None:
    rows = [row(f"n-{n}", at=NOW + timedelta(microseconds=n)) for n in range(count)]
    reset_log()

    async def story(lane: Lane) -> None:
        assert isinstance(await send(lane, 7, batch_of(*rows)), Outcome)

    tell(story)
    assert columns(Delivery, *DeliveryRow._fields) == [tuple(one) for one in rows]


@pytest.mark.parametrize("seen", [6, 8, -1, 0])
def test_nothing_is_written_once_something_has_changed(transactional_db: None, seen: int) -> None:
    reset_log()

    async def story(lane: Lane) -> None:
        verified = VerificationRow(NOW, some_id(), None, "valid")
        outcome = await send(lane, seen, batch_of(row("a"), verified))
        assert isinstance(outcome, Outcome)
        assert outcome.seq == 7
        assert isinstance(again := await send(lane, 7, batch_of()), Outcome)
        assert again.seq == 7

    tell(story)
    assert (Delivery.objects.count(), Verification.objects.count()) == (0, 0)


def test_a_database_in_which_nothing_has_changed_yet(transactional_db: None) -> None:
    ChangeCounter.objects.all().delete()

    async def story(lane: Lane) -> None:
        outcome = await send(lane, 0, batch_of(row("a")))
        assert isinstance(outcome, Outcome)
        assert outcome.seq == 0

    tell(story)
    assert Delivery.objects.count() == 1


def test_a_change_that_is_committed_is_seen_by_the_next_batch(furniture: Furniture) -> None:
    token, _ = furniture.reader()
    seen = ChangeCounter.objects.get().seq

    def change() -> None:
        try:
            ConsumerToken.objects.filter(pk=token.pk).update(hint="changed")
        finally:
            connection.close()

    async def story(lane: Lane) -> None:
        assert isinstance(first := await send(lane, seen, batch_of(row("before"))), Outcome)
        await asyncio.to_thread(change)
        assert isinstance(second := await send(lane, seen, batch_of(row("after"))), Outcome)
        assert (first.seq, second.seq) == (seen, seen + 1)

    tell(story)
    assert [name for (name,) in columns(Delivery, "request_id")] == ["before"]


@pytest.fixture
def furniture(transactional_db: None) -> Furniture:
    return furnish()


def test_what_the_database_refuses_is_unavailable_and_the_lane_goes_on(transactional_db: None) -> None:
    reset_log()
    # PostgreSQL knows no such text; SQLite no such number.
    bad = row("\x00") if connection.vendor == "postgresql" else row("a", status=2**70)

    async def story(lane: Lane) -> None:
        assert isinstance(await send(lane, 7, batch_of(row("with it"), bad)), Unavailable)
        assert lane.connected
        assert isinstance(await send(lane, 7, batch_of(row("next"))), Outcome)

    tell(story)
    assert [name for (name,) in columns(Delivery, "request_id")] == ["next"]


# PostgreSQL ----------------------------------------------------------------------------------------


def _end_idle_lanes() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'WITH now AS %' AND datname = current_database()"
            )
            assert cursor.fetchall()
    finally:
        connection.close()


@pytest.mark.postgresql
def test_an_idle_lane_notices_that_its_server_is_gone(transactional_db: None) -> None:
    reset_log()

    async def story(lane: Lane) -> None:
        await asyncio.to_thread(_end_idle_lanes)
        await asyncio.to_thread(wait_for, lambda: not lane.connected, "the lane notices")
        await lane.open()
        assert isinstance(await send(lane, 7, batch_of(row("again"))), Outcome)

    tell(story)
    assert Delivery.objects.count() == 1


@pytest.mark.postgresql
def test_a_batch_whose_server_process_ends_is_unavailable(transactional_db: None) -> None:
    reset_log()

    async def story(lane: Lane) -> None:
        held = await asyncio.to_thread(_hold_the_gate)
        sending = asyncio.ensure_future(send(lane, 7, batch_of(row("a"))))
        await asyncio.to_thread(_end_waiting)
        assert isinstance(await sending, Unavailable)
        assert not lane.connected
        held.close()

    tell(story)
    assert Delivery.objects.count() == 0


def _hold_the_gate() -> psycopg.Connection[Any]:
    """Somebody who folds and does not end: every batch waits."""
    held = psycopg.connect(**connection.get_connection_params())
    held.execute("SELECT pg_advisory_xact_lock(%s)", [INSERTING])
    return held


def _end_waiting() -> None:
    try:
        with connection.cursor() as cursor:
            for _ in range(100_000):
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE wait_event = 'advisory' AND datname = current_database()"
                )
                if cursor.fetchone():
                    return
        raise AssertionError("nobody waits")
    finally:
        connection.close()


@pytest.mark.postgresql
def test_a_batch_without_an_answer_has_failed_and_may_be_written_yet(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset_log()

    async def story(lane: Lane) -> None:
        held = await asyncio.to_thread(_hold_the_gate)
        monkeypatch.setattr(lane_postgresql, "FLUSH_SECONDS", 0.2)
        assert isinstance(await send(lane, 7, batch_of(row("a"))), Unavailable)
        assert not lane.connected, "nobody knows where it stands"
        held.close()

    tell(story)
    wait_for(lambda: Delivery.objects.count() == 1, "its server process goes on")


@pytest.mark.postgresql
def test_the_server_gives_up_as_well(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reset_log()
    monkeypatch.setattr(lane_postgresql, "FLUSH_SECONDS", 0.2)  # for the statements of the connection

    async def story(lane: Lane) -> None:
        monkeypatch.setattr(lane_postgresql, "FLUSH_SECONDS", PATIENCE)
        held = await asyncio.to_thread(_hold_the_gate)
        assert isinstance(await send(lane, 7, batch_of(row("a"))), Unavailable)
        assert lane.connected
        held.close()
        deadline = time.monotonic() + PATIENCE
        # The gate opens when the other server process has ended, and each try is given up as soon.
        while not isinstance(await send(lane, 7, batch_of(row("b"))), Outcome):
            assert time.monotonic() < deadline
            assert lane.connected

    tell(story)
    assert [name for (name,) in columns(Delivery, "request_id")] == ["b"]


@pytest.mark.postgresql
def test_a_reply_means_durable_whatever_the_server_does_by_default(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_postgresql, "FLUSH_SECONDS", FLUSH_SECONDS)
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("off",), "this server would say yes before it has written"
    held = lane_postgresql._connect()
    try:
        assert held.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert held.execute("SHOW statement_timeout").fetchone() == ("5s",)
    finally:
        held.close()


@pytest.mark.postgresql
def test_a_batch_larger_than_the_sockets_buffer(transactional_db: None) -> None:
    rows = [row("r" * 64, instance="i" * 128) for _ in range(20_000)]
    reset_log()

    async def story(lane: Lane) -> None:
        assert isinstance(await send(lane, 7, batch_of(*rows)), Outcome)

    tell(story)
    assert Delivery.objects.count() == len(rows)


@pytest.mark.postgresql
def test_the_outcome_tells_the_servers_time(transactional_db: None) -> None:
    reset_log()

    async def story(lane: Lane) -> None:
        outcome = await send(lane, 7, batch_of())
        assert isinstance(outcome, Outcome)
        assert outcome.now is not None
        assert abs(outcome.now - datetime.now(UTC)) < timedelta(seconds=60)

    tell(story)


# SQLite --------------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_locked_file_is_unavailable_and_no_longer_than_a_batch_may_take(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset_log()
    monkeypatch.setattr(lane_sqlite, "FLUSH_SECONDS", 0.2)

    async def story(lane: Lane) -> None:
        held = sqlite3.connect(str(connection.settings_dict["NAME"]), isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        assert isinstance(await send(lane, 7, batch_of(row("a"))), Unavailable)
        held.execute("ROLLBACK")
        held.close()
        assert isinstance(await send(lane, 7, batch_of(row("b"))), Outcome)

    tell(story)
    assert [name for (name,) in columns(Delivery, "request_id")] == ["b"]
