"""What is kept on disk while the database is away: durable before the answer, whole lines, nothing secret."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyvault.delivery import spool
from keyvault.delivery.lane import Lane, Outcome, Unavailable
from keyvault.delivery.rows import Batch, DeliveryRow, VerificationRow
from keyvault.delivery.spool import SpoolLane

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ID = bytes(range(16))
Story = Callable[[SpoolLane], Awaitable[None]]


def batch_of(*names: str) -> Batch:
    batch = Batch()
    for name in names:
        batch.add(DeliveryRow(NOW, ID, ID, ID, ID, "web-1", "current", "consumer_token", 200, name))
    return batch


def tell(folder: Path, story: Story) -> None:
    async def whole() -> None:
        lane = SpoolLane(folder)
        await lane.open()
        await story(lane)
        await lane.close()

    asyncio.run(whole())


async def send(lane: SpoolLane, batch: Batch) -> Outcome | Unavailable:
    told: asyncio.Future[Outcome | Unavailable] = asyncio.get_running_loop().create_future()

    def done(answered: Lane, outcome: Outcome | Unavailable) -> None:
        assert answered is lane
        told.set_result(outcome)

    lane.send(7, batch, done)
    assert not told.done()
    return await told


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def kept(path: Path) -> list[str]:
    lines = path.read_bytes().splitlines()
    return [row[-1] for line in lines for row in json.loads(line)["deliveries"]]


def test_a_batch_is_a_line_in_a_file_of_this_process_alone(tmp_path: Path) -> None:
    folder = tmp_path / "spool"

    async def story(lane: SpoolLane) -> None:
        assert await send(lane, batch_of("a", "b")) == Outcome(7)
        assert await send(lane, batch_of("c")) == Outcome(7)
        [path] = files(folder)
        assert kept(path) == ["a", "b", "c"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    tell(folder, story)
    with files(folder)[0].open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the end gives it free


def test_it_is_on_disk_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write, sync = os.write, os.fdatasync

    def writing(file: int, line: bytes) -> int:
        order.append("write")
        return write(file, line)

    def syncing(file: int) -> None:
        order.append("sync")
        sync(file)

    monkeypatch.setattr(os, "write", writing)
    monkeypatch.setattr(os, "fdatasync", syncing)

    async def story(lane: SpoolLane) -> None:
        await send(lane, batch_of("a"))
        order.append("answer")

    tell(tmp_path, story)
    assert order[-3:] == ["write", "sync", "answer"]


def test_an_empty_batch_leaves_nothing(tmp_path: Path) -> None:
    async def story(lane: SpoolLane) -> None:
        assert await send(lane, Batch()) == Outcome(7)

    tell(tmp_path, story)
    assert files(tmp_path) == []


def test_verifications_are_kept_as_counts(tmp_path: Path) -> None:
    batch = Batch()
    for _ in range(3):
        batch.add(VerificationRow(NOW, ID, None, "valid"))

    async def story(lane: SpoolLane) -> None:
        await send(lane, batch)

    tell(tmp_path, story)
    told = json.loads(files(tmp_path)[0].read_bytes())
    assert told["verifications"] == [[NOW.isoformat(), ID.hex(), None, "valid", 3]]


def test_what_is_handed_over_is_followed_by_another_file(tmp_path: Path) -> None:
    async def story(lane: SpoolLane) -> None:
        await send(lane, batch_of("a"))
        await lane.hand_over()
        await lane.hand_over()
        await send(lane, batch_of("b"))
        assert sorted(kept(path) for path in files(tmp_path)) == [["a"], ["b"]]

    tell(tmp_path, story)


@pytest.mark.parametrize("what", ["full", "half written", "not synced"])
def test_a_disk_that_fails_is_no_answer_and_spoils_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    write, sync = os.write, os.fdatasync

    def half(file: int, line: bytes) -> int:
        return write(file, line[: len(line) // 2])

    def fails(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def story(lane: SpoolLane) -> None:
        assert await send(lane, batch_of("before")) == Outcome(7)
        with monkeypatch.context() as patch:
            if what == "not synced":
                patch.setattr(os, "fdatasync", fails)
            else:
                patch.setattr(os, "write", half if what == "half written" else fails)
            assert isinstance(await send(lane, batch_of("lost")), Unavailable)
        assert await send(lane, batch_of("after")) == Outcome(7)

    tell(tmp_path, story)
    assert (os.write, os.fdatasync) == (write, sync)
    found = [told for path in files(tmp_path) for told in spool._lines(path)]
    names = {row[-1] for told in found for row in told["deliveries"]}
    # One that was written and not synced may come back: then more is recorded than was answered.
    assert names - {"lost"} == {"before", "after"}


def test_a_file_that_a_replay_took_before_it_was_locked_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay finds the new file empty and removes it: what is written there would be gone."""
    flock, first = fcntl.flock, threading.Event()

    def late(file: int, how: int) -> None:
        if not first.is_set():
            first.set()
            for path in files(tmp_path):
                path.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)

    async def story(lane: SpoolLane) -> None:
        await send(lane, batch_of("a"))

    tell(tmp_path, story)
    assert [kept(path) for path in files(tmp_path)] == [["a"]]
