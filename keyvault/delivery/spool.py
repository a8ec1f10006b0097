"""What is written down while the database is away, and how it gets there afterwards, exactly once.

One file per process, one line per batch, on disk before any of its answers leaves. A line holds ids, names
and times: no secret and no token.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog
from django.db import transaction

from keyvault.delivery.lane import Done, Outcome, Unavailable
from keyvault.delivery.rows import (
    DELIVERY_COLUMNS,
    VERIFICATION_COLUMNS,
    Batch,
    DeliveryRow,
    VerificationCount,
)
from keyvault.models import Delivery, Verification
from keyvault.services import inserting

log = structlog.get_logger("keyturn.delivery")

_SUFFIX: Final = ".spool"
# Folding waits for one of these transactions.
_REPLAYED_AT_ONCE: Final = 1_000


class SpoolLane:
    """A ``Lane`` into a file. It takes every decision as current: that is what the grace is for."""

    connected = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: int | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")

    async def open(self) -> None:
        """Nothing to connect to; the file is made for the first batch."""

    def send(self, seen: int, batch: Batch, done: Done) -> None:
        task = asyncio.get_running_loop().run_in_executor(self._thread, self._append, batch)

        def tell(task: asyncio.Future[None]) -> None:
            error = task.exception()
            done(self, Outcome(seen) if error is None else Unavailable(type(error).__name__))

        task.add_done_callback(tell)

    def _append(self, batch: Batch) -> None:
        line = _line(batch)
        if not line:
            return
        if self._file is None:
            self._file = _create(self._directory)
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError("The disk took only a part of a record.")
            os.fdatasync(self._file)
        except OSError:
            # Nothing may follow a torn line: the next batch starts another file.
            self._end()
            raise

    async def hand_over(self) -> None:
        """End the file, so that ``replay`` may take it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)

    def _end(self) -> None:
        if self._file is not None:
            os.close(self._file)  # and with it the lock
            self._file = None

    async def close(self) -> None:
        await self.hand_over()
        self._thread.shutdown()


def _create(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        path = directory / f"{uuid.uuid4()}{_SUFFIX}"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        # Held for as long as this process writes: nobody replays half a file.
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_there(file):
            break
        # Somebody who replays has found it empty and removed it before it was locked.
        os.close(file)
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _is_there(file: int) -> bool:
    return os.fstat(file).st_nlink > 0


def _line(batch: Batch) -> bytes:
    told = {
        "deliveries": [_plain(row) for row in batch.deliveries],
        "verifications": [_plain(row) for row in batch.verifications],
    }
    if not any(told.values()):
        return b""
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _plain(row: DeliveryRow | VerificationCount) -> list[object]:
    told: dict[type, Any] = {datetime: datetime.isoformat, bytes: bytes.hex}
    return [told.get(type(value), lambda same: same)(value) for value in row]


def replay(directory: Path) -> int:
    """Put every finished file into the database and remove it; returns the rows that were new there.

    A file is removed after its rows have committed. Whoever replays it again, after a crash in between, finds
    them there. Raises ``DatabaseError``.
    """
    new = 0
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        with _taken(path) as ours:
            if ours:
                new += _replay_file(path)
                path.unlink()
    return new


@contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Whether the file is ours meanwhile: nobody writes it, and nobody else replays it or has done so."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        yield False
        return
    try:
        yield _is_there(file)
    finally:
        os.close(file)


def _replay_file(path: Path) -> int:
    new = 0
    # A batch whose connection was lost may still be on its way into the database: then it is there now.
    inserting.wait_for_inserters()
    for deliveries, verifications in _batches(path):
        with transaction.atomic():
            inserting.hold()
            new += _replay_deliveries(deliveries)
            new += _replay_verifications(verifications)
    log.info("records replayed", rows=new)
    return new


def _batches(path: Path) -> Iterator[tuple[list[list[Any]], list[list[Any]]]]:
    """The deliveries and verifications of many lines at a time: a line may be one row."""
    deliveries: list[list[Any]] = []
    verifications: list[list[Any]] = []
    for told in _lines(path):
        deliveries += told["deliveries"]
        verifications += told["verifications"]
        if len(deliveries) + len(verifications) >= _REPLAYED_AT_ONCE:
            yield deliveries, verifications
            deliveries, verifications = [], []
    yield deliveries, verifications


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        try:
            told = json.loads(line) if line else None
        except ValueError:
            # Torn by a crash in the middle of writing it: none of its answers ever left.
            log.warning("torn record in the spool")
            continue
        if told is not None:
            yield told


def _replay_deliveries(told: list[list[Any]]) -> int:
    rows = [Delivery(**_values(DELIVERY_COLUMNS, values)) for values in told]
    # The connection may have broken after the commit: then they are there.
    known = set(
        Delivery.objects.filter(
            key_id__in={row.key_id for row in rows}, at__in={row.at for row in rows}
        ).values_list("at", "version_id", "request_id")
    )
    missing = [row for row in rows if (row.at, row.version_id, row.request_id) not in known]
    Delivery.objects.bulk_create(missing)
    return len(missing)


def _replay_verifications(told: list[list[Any]]) -> int:
    rows = [Verification(**_values(VERIFICATION_COLUMNS, values)) for values in told]
    # Those that are folded already would be counted twice. That does no harm: it was used at that time.
    known = set(
        Verification.objects.filter(
            version_id__in={row.version_id for row in rows}, at__in={row.at for row in rows}
        ).values_list("at", "version_id", "consumer_id", "code", "count")
    )
    missing = [
        row for row in rows if (row.at, row.version_id, row.consumer_id, row.code, row.count) not in known
    ]
    Verification.objects.bulk_create(missing)
    return len(missing)


def _values(columns: Sequence[str], told: Sequence[Any]) -> dict[str, Any]:
    """What ``_plain`` wrote, as the models have it."""
    values = dict(zip(columns, told, strict=True))
    for name, value in values.items():
        if name.endswith("_id") and name != "request_id" and value is not None:
            values[name] = uuid.UUID(hex=value)
    return {**values, "at": datetime.fromisoformat(values["at"])}
