"""The lane to SQLite: a thread of its own, because every call to it blocks."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from django.db import DatabaseError, connection

from keyvault.delivery.lane import FLUSH_SECONDS, Done, Outcome, Unavailable
from keyvault.delivery.rows import (
    DELIVERY_COLUMNS,
    VERIFICATION_COLUMNS,
    Batch,
    DeliveryRow,
    VerificationCount,
)
from keyvault.models import ChangeCounter, Delivery, Verification


def _insert(table: str, columns: tuple[str, ...]) -> str:
    places = ", ".join(["%s"] * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608 - names of ours


_SEQ: Final = f"SELECT COALESCE((SELECT seq FROM {ChangeCounter._meta.db_table}), 0)"  # noqa: S608
_DELIVERY: Final = _insert(Delivery._meta.db_table, DELIVERY_COLUMNS)
_VERIFICATION: Final = _insert(Verification._meta.db_table, VERIFICATION_COLUMNS)


class SQLiteLane:
    """See ``Lane``."""

    def __init__(self) -> None:
        self.connected = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flush")

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, _connect)
        except DatabaseError as error:
            raise Unavailable from error
        self.connected = True

    def send(self, seen: int, batch: Batch, done: Done) -> None:
        task = asyncio.get_running_loop().run_in_executor(self._thread, _flush, seen, batch)

        def tell(task: asyncio.Future[int]) -> None:
            error = task.exception()
            done(self, Outcome(task.result()) if error is None else Unavailable(type(error).__name__))

        task.add_done_callback(tell)

    async def close(self) -> None:
        self.connected = False
        await asyncio.get_running_loop().run_in_executor(self._thread, _disconnect)
        self._thread.shutdown()


def _connect() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout={int(FLUSH_SECONDS * 1000)}")


def _disconnect() -> None:
    connection.close()


def _flush(seen: int, batch: Batch) -> int:
    try:
        with connection.cursor() as cursor:
            # The lock comes before the look: nobody can change anything between it and the commit.
            cursor.execute("BEGIN IMMEDIATE")
            try:
                seq = _write(cursor, seen, batch)
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT" if seq == seen else "ROLLBACK")
    except DatabaseError:
        # A connection in an unknown state is not used again; the next batch opens another.
        connection.close()
        raise
    return seq


def _write(cursor: Any, seen: int, batch: Batch) -> int:
    cursor.execute(_SEQ)
    seq = int(cursor.fetchone()[0])
    if seq == seen:
        if batch.deliveries:
            cursor.executemany(_DELIVERY, [_plain(row) for row in batch.deliveries])
        if batch.verifications:
            cursor.executemany(_VERIFICATION, [_plain(row) for row in batch.verifications])
    return seq


def _plain(row: DeliveryRow | VerificationCount) -> list[object]:
    """The row as Django stores it: ids as hexadecimal text, times as text in UTC."""
    at = connection.ops.adapt_datetimefield_value(row.at)
    return [at, *(value.hex() if isinstance(value, bytes) else value for value in row[1:])]
