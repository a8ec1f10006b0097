"""After an outage: every kept record comes into the database once, whoever brings it there and how often."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, transaction

from keyvault.delivery import spool
from keyvault.delivery.lane import Lane, Outcome, Unavailable
from keyvault.delivery.rows import Batch, DeliveryRow, Row, VerificationRow
from keyvault.delivery.spool import SpoolLane, replay
from keyvault.models import Delivery, LastDelivery, UsageBucket, Verification
from keyvault.services import inserting, usage
from tests.integration.furniture import NOW, PATIENCE, at_once, furnish, raised, returned
from tests.integration.records import Traffic, traffic, until_somebody_asks

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


@pytest.fixture
def reader(db: None) -> Traffic:
    return traffic(furnish())


def delivery(reader: Traffic, name: str, seconds: int = 0) -> DeliveryRow:
    key = reader.key
    assert key.current_id is not None
    return DeliveryRow(
        NOW - seconds * SECOND,
        key.id.bytes,
        key.current_id.bytes,
        reader.token.consumer_id.bytes,
        reader.token.id.bytes,
        "web-1",
        "current",
        "consumer_token",
        200,
        name,
    )


def verification(reader: Traffic, seconds: int = 0, *, by_gateway: bool = False) -> VerificationRow:
    assert reader.key.current_id is not None
    consumer = None if by_gateway else reader.token.consumer_id.bytes
    return VerificationRow(NOW - seconds * SECOND, reader.key.current_id.bytes, consumer, "valid")


async def _kept(folder: Path, batches: Sequence[Sequence[Row]]) -> None:
    lane = SpoolLane(folder)
    for rows in batches:
        batch = Batch()
        for row in rows:
            batch.add(row)
        told: asyncio.Future[Outcome | Unavailable] = asyncio.get_running_loop().create_future()

        def done(
            lane: Lane, outcome: Outcome | Unavailable, told: asyncio.Future[Outcome | Unavailable] = told
        ) -> None:
            told.set_result(outcome)

        lane.send(1, batch, done)
        assert isinstance(await told, Outcome)
    await lane.close()


def keep(folder: Path, *batches: Sequence[Row]) -> Path:
    """What a process leaves behind that answered these batches during an outage and has ended."""
    before = set(folder.glob("*.spool"))
    asyncio.run(_kept(folder, batches))
    [path] = set(folder.glob("*.spool")) - before
    return path


def recorded() -> list[str]:
    return list(Delivery.objects.order_by("id").values_list("request_id", flat=True))


def test_records_come_into_the_database_as_they_were(reader: Traffic, tmp_path: Path) -> None:
    first, second = delivery(reader, "a", 30), delivery(reader, "b", 20)
    path = keep(tmp_path, [first, verification(reader)], [second, verification(reader, by_gateway=True)])
    assert replay(tmp_path) == 4
    columns = ("at", "key_id", "version_id", "consumer_id", "token_id", "instance", "label", "credential")
    rows = Delivery.objects.order_by("id").values_list(*columns, "status", "request_id")
    assert [
        tuple(value.bytes if isinstance(value, uuid.UUID) else value for value in row) for row in rows
    ] == [tuple(first), tuple(second)]
    told = Verification.objects.order_by("id").values_list("at", "version_id", "consumer_id", "code", "count")
    version, consumer = reader.key.current_id, reader.token.consumer_id
    assert list(told) == [(NOW, version, consumer, "valid", 1), (NOW, version, None, "valid", 1)]
    assert not path.exists()


def test_there_may_be_nothing_to_replay(db: None, tmp_path: Path) -> None:
    assert replay(tmp_path) == replay(tmp_path / "never made") == 0


def test_a_crash_before_the_file_was_removed_doubles_nothing(reader: Traffic, tmp_path: Path) -> None:
    path = keep(
        tmp_path, [delivery(reader, "a"), verification(reader)], [verification(reader, by_gateway=True)]
    )
    lines = path.read_bytes()
    assert replay(tmp_path) == 3
    path.write_bytes(lines)
    assert replay(tmp_path) == 0
    assert (recorded(), Verification.objects.count()) == (["a"], 2)


def test_a_crash_in_the_middle_goes_on_where_it_was(
    reader: Traffic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_REPLAYED_AT_ONCE", 1)
    keep(tmp_path, [delivery(reader, "a")], [delivery(reader, "b")], [delivery(reader, "c")])
    write = spool._replay_deliveries
    calls = iter((write, write, None))

    def crashing(told: list[list[object]]) -> int:
        chosen = next(calls)
        if chosen is None:
            raise DatabaseError("crash")
        return chosen(told)

    with monkeypatch.context() as patch:
        patch.setattr(spool, "_replay_deliveries", crashing)
        with pytest.raises(DatabaseError, match="crash"):
            replay(tmp_path)
    assert recorded() == ["a", "b"]
    assert replay(tmp_path) == 1
    assert recorded() == ["a", "b", "c"]


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_lines_may_be_taken_together(
    reader: Traffic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(spool, "_REPLAYED_AT_ONCE", at_once)
    names = [f"{n}" for n in range(5)]
    batches: list[list[Row]] = [
        [delivery(reader, name, int(name)), verification(reader, int(name))] for name in names
    ]
    path = keep(tmp_path, *batches)
    lines = path.read_bytes()
    assert replay(tmp_path) == 10
    path.write_bytes(lines)
    assert replay(tmp_path) == 0
    assert (recorded(), Verification.objects.count()) == (names, 5)


def test_what_was_committed_before_the_connection_broke_is_not_written_again(
    reader: Traffic, tmp_path: Path
) -> None:
    row = delivery(reader, "a")
    keep(tmp_path, [row])
    replay(tmp_path)
    keep(tmp_path, [row, delivery(reader, "b")])
    assert replay(tmp_path) == 1
    assert recorded() == ["a", "b"]


@pytest.mark.parametrize("torn", [b'{"deliveries":[["2026-', b"{", b"\x00\x00"])
def test_a_torn_last_line_is_left_out(reader: Traffic, tmp_path: Path, torn: bytes) -> None:
    path = keep(tmp_path, [delivery(reader, "a")])
    with path.open("ab") as file:
        file.write(torn)
    assert replay(tmp_path) == 1
    assert (recorded(), path.exists()) == (["a"], False)


def test_a_file_that_somebody_writes_is_left_alone(reader: Traffic, tmp_path: Path) -> None:
    async def story() -> int:
        lane, batch = SpoolLane(tmp_path), Batch()
        batch.add(delivery(reader, "a"))
        told = asyncio.Event()
        lane.send(1, batch, lambda lane, outcome: told.set())
        await told.wait()
        new = await asyncio.to_thread(_replayed_elsewhere, tmp_path)
        await lane.close()
        return new

    assert asyncio.run(story()) == 0
    assert len(list(tmp_path.glob("*.spool"))) == 1
    assert replay(tmp_path) == 1


def _replayed_elsewhere(folder: Path) -> int:
    try:
        return replay(folder)
    finally:
        connection.close()


@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_replays_at_once_write_each_record_once(transactional_db: None, tmp_path: Path) -> None:
    reader = traffic(furnish())
    names = [f"{file}-{line}" for file in range(6) for line in range(4)]
    for file in range(6):
        keep(tmp_path, *([delivery(reader, f"{file}-{line}", line)] for line in range(4)))
    outcomes = at_once(*([lambda: replay(tmp_path)] * 6))
    assert not raised(outcomes), raised(outcomes)
    assert sum(returned(outcomes)) == len(names)
    assert sorted(recorded()) == names
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgresql
@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_a_batch_that_is_still_on_its_way_in_is_waited_for(transactional_db: None, tmp_path: Path) -> None:
    """Its connection broke, and its server process commits a moment later."""
    reader = traffic(furnish())
    row = delivery(reader, "a")
    keep(tmp_path, [row])
    inserted = threading.Event()

    def commits_late() -> int:
        with transaction.atomic():
            inserting.hold()
            reader.deliver(NOW, request_id="a")
            inserted.set()
            until_somebody_asks()
        return 0

    def replays() -> int:
        assert inserted.wait(PATIENCE)
        return replay(tmp_path)

    outcomes = at_once(commits_late, replays)
    assert not raised(outcomes), raised(outcomes)
    assert (sum(returned(outcomes)), recorded()) == (0, ["a"])


@pytest.mark.postgresql
@pytest.mark.usefixtures("patient")
@pytest.mark.django_db(transaction=True)
def test_folding_passes_no_record_that_is_being_replayed(
    transactional_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its id and is not committed: the mark must not move past it."""
    reader = traffic(furnish())
    keep(tmp_path, [delivery(reader, "kept", 60)])
    inserted, folding = threading.Event(), threading.Event()
    write = spool._replay_verifications

    def slow(told: list[list[object]]) -> int:
        inserted.set()
        assert folding.wait(PATIENCE)
        until_somebody_asks()
        return write(told)

    monkeypatch.setattr(spool, "_replay_verifications", slow)

    def folds() -> int:
        assert inserted.wait(PATIENCE)
        reader.deliver(NOW)
        folding.set()
        return usage.roll_up()

    outcomes = at_once(lambda: replay(tmp_path), folds)
    assert not raised(outcomes), raised(outcomes)
    usage.roll_up()
    assert sum(UsageBucket.objects.values_list("deliveries", flat=True)) == 2
    assert LastDelivery.objects.count() == 1
