"""The lane to PostgreSQL: libpq without waiting, on the event loop, one prepared statement per batch.

The statement compares the change counter, inserts and reports the counter, in one round trip.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from django.db import connection
from psycopg import pq

from keyvault.delivery.lane import FLUSH_SECONDS, Done, Outcome, Unavailable
from keyvault.delivery.rows import (
    DELIVERY_COLUMNS,
    VERIFICATION_COLUMNS,
    Batch,
    DeliveryRow,
    VerificationCount,
)
from keyvault.models import ChangeCounter, Delivery, Verification
from keyvault.services.inserting import INSERTING

CONNECT_SECONDS: Final = 3
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_INT8: Final = 20

# Column type -> (name, oid of the array, oid of the element)
_TYPES: Final = {
    "at": ("timestamptz", 1185, 1184),
    "key_id": ("uuid", 2951, 2950),
    "version_id": ("uuid", 2951, 2950),
    "consumer_id": ("uuid", 2951, 2950),
    "token_id": ("uuid", 2951, 2950),
    "instance": ("text", 1009, 25),
    "label": ("text", 1009, 25),
    "credential": ("text", 1009, 25),
    "status": ("int2", 1005, 21),
    "request_id": ("text", 1009, 25),
    "code": ("text", 1009, 25),
    "count": ("int4", 1007, 23),
}


def _insert(name: str, table: str, columns: Sequence[str], first: int, gate: str) -> str:
    arrays = ", ".join(f"${first + n}::{_TYPES[column][0]}[]" for n, column in enumerate(columns))
    names = ", ".join(f'"{column}"' for column in columns)
    chosen = ", ".join(f'r."{column}"' for column in columns)
    return (
        f"{name} AS (INSERT INTO {table} ({names}) SELECT {chosen} "  # noqa: S608 - names of ours
        f"FROM unnest({arrays}) AS r({names}), now{gate} WHERE now.seq = $1)"
    )


_NOW: Final = (
    "now AS MATERIALIZED (SELECT COALESCE("  # noqa: S608 - names of ours
    f"(SELECT seq FROM {ChangeCounter._meta.db_table}), 0) AS seq)"
)
# So that readers know for whom to wait (see services/inserting.py).
_GATE: Final = f"gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({INSERTING}) IS NULL)"


def _statement(*, deliveries: bool, verifications: bool) -> tuple[str, list[int]]:
    """The statement for a batch of this shape, and the types of its parameters."""
    parts, types = [_NOW], [_INT8]
    if deliveries:
        parts.append(_GATE)
        parts.append(_insert("kept", Delivery._meta.db_table, DELIVERY_COLUMNS, len(types) + 1, ", gate"))
        types += [_TYPES[column][1] for column in DELIVERY_COLUMNS]
    if verifications:
        parts.append(
            _insert("counted", Verification._meta.db_table, VERIFICATION_COLUMNS, len(types) + 1, "")
        )
        types += [_TYPES[column][1] for column in VERIFICATION_COLUMNS]
    # Without a row to write nothing needs the number that was seen, but a parameter must be used.
    return f"WITH {', '.join(parts)} SELECT seq, clock_timestamp(), $1 FROM now", types  # noqa: S608


_SHAPES: Final = ((False, False), (True, False), (False, True), (True, True))
_NAMES: Final = {shape: f"flush_{n}".encode() for n, shape in enumerate(_SHAPES)}


def _times(values: Sequence[datetime]) -> bytes:
    sized = [part for at in values for part in (8, (at - _EPOCH) // _MICROSECOND)]
    return struct.pack("!" + "iq" * len(values), *sized)


def _ids(values: Sequence[bytes]) -> bytes:
    return b"\0\0\0\x10" + b"\0\0\0\x10".join(values)


def _ids_or_nulls(values: Sequence[bytes | None]) -> bytes:
    return b"".join(b"\xff\xff\xff\xff" if value is None else b"\0\0\0\x10" + value for value in values)


def _texts(values: Sequence[str]) -> bytes:
    return b"".join([len(raw).to_bytes(4) + raw for raw in map(str.encode, values)])


def _small(values: Sequence[int]) -> bytes:
    return struct.pack("!" + "ih" * len(values), *[part for value in values for part in (2, value)])


def _integers(values: Sequence[int]) -> bytes:
    return struct.pack("!" + "ii" * len(values), *[part for value in values for part in (4, value)])


_ENCODERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "timestamptz": _times,
    "uuid": _ids,
    "text": _texts,
    "int2": _small,
    "int4": _integers,
}


def _arrays(columns: Sequence[str], rows: Sequence[DeliveryRow | VerificationCount]) -> Iterable[bytes]:
    """The rows by column, each as a binary array: dimensions, nulls or not, element type, size, items."""
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        name, _, element = _TYPES[column]
        nulls = None in values
        encode = _ids_or_nulls if nulls else _ENCODERS[name]
        yield struct.pack("!iiiii", 1, nulls, element, len(values), 1) + encode(values)


class PostgreSQLLane:
    """See ``Lane``. Reading an idle connection too tells at once when the server goes away."""

    def __init__(self) -> None:
        self.connected = False
        self._connection: psycopg.Connection | None = None
        # Remembered: libpq closes it by itself and forgets it, while the event loop still waits for it.
        self._socket = -1
        self._done: Done | None = None
        self._outcome: Outcome | Unavailable | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._connection = await loop.run_in_executor(None, _connect)
        except psycopg.Error as error:
            raise Unavailable from error
        self._socket = self._connection.pgconn.socket
        loop.add_reader(self._socket, self._readable)
        self.connected = True

    def send(self, seen: int, batch: Batch, done: Done) -> None:
        assert self._connection is not None
        deliveries, verifications = batch.deliveries, batch.verifications
        parameters = [struct.pack("!q", seen)]
        if deliveries:
            parameters.extend(_arrays(DELIVERY_COLUMNS, deliveries))
        if verifications:
            parameters.extend(_arrays(VERIFICATION_COLUMNS, verifications))
        loop = asyncio.get_running_loop()
        self._done = done
        self._timer = loop.call_later(FLUSH_SECONDS, self._fail, "no answer in time")
        try:
            self._connection.pgconn.send_query_prepared(
                _NAMES[bool(deliveries), bool(verifications)], parameters, [1] * len(parameters), 1
            )
            self._push()
        except psycopg.Error as error:
            loop.call_soon(self._fail, type(error).__name__)

    def _push(self) -> None:
        """Hand the statement to the kernel; the rest of a long one when it takes more."""
        assert self._connection is not None
        loop, pgconn = asyncio.get_running_loop(), self._connection.pgconn
        if pgconn.flush():
            loop.add_writer(self._socket, self._writable)
        else:
            loop.remove_writer(self._socket)

    def _writable(self) -> None:
        try:
            self._push()
        except psycopg.Error as error:
            self._fail(type(error).__name__)

    def _readable(self) -> None:
        assert self._connection is not None
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._settle()
                    return
                if result.status == pq.ExecStatus.TUPLES_OK:
                    self._outcome = _outcome(result)
                else:
                    self._outcome = Unavailable(_code(result))
        except psycopg.Error as error:
            self._fail(type(error).__name__)

    def _settle(self) -> None:
        """The whole answer is here; nothing at all where the connection was idle."""
        done, self._done = self._done, None
        outcome, self._outcome = self._outcome, None
        if self._timer is not None:
            self._timer.cancel()
        if done is not None and outcome is not None:
            done(self, outcome)

    def _fail(self, why: str) -> None:
        """The connection is lost: a batch under way may be written or not."""
        if self._connection is None:
            return
        self._drop()
        self._outcome = Unavailable(why)
        self._settle()

    def _drop(self) -> None:
        if self._connection is not None:
            loop, held = asyncio.get_running_loop(), self._connection
            self._connection, self.connected = None, False
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            held.close()

    async def close(self) -> None:
        self._drop()


def _outcome(result: pq.abc.PGresult) -> Outcome:
    (seq,) = struct.unpack("!q", result.get_value(0, 0) or b"")
    (microseconds,) = struct.unpack("!q", result.get_value(0, 1) or b"")
    return Outcome(seq, _EPOCH + microseconds * _MICROSECOND)


def _code(result: pq.abc.PGresult) -> str:
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()


def _connect() -> psycopg.Connection:
    parameters = {"connect_timeout": CONNECT_SECONDS, **connection.get_connection_params()}
    made: psycopg.Connection = psycopg.connect(**parameters, autocommit=True)
    try:
        made.execute(f"SET statement_timeout = {int(FLUSH_SECONDS * 1000)}")
        # A reply promises that its record is durable, whatever this server does by default.
        made.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
        for shape in _SHAPES:
            text, types = _statement(deliveries=shape[0], verifications=shape[1])
            prepared = made.pgconn.prepare(_NAMES[shape], text.encode(), types)
            if prepared.status != pq.ExecStatus.COMMAND_OK:
                raise psycopg.OperationalError(f"The flush could not be prepared: {_code(prepared)}.")
        made.pgconn.nonblocking = 1
    except BaseException:
        made.close()
        raise
    return made
