"""Who is inserting deliveries at this moment, so that nobody passes over a row that comes in late.

PostgreSQL gives out ids before it commits: a reader that remembers the newest id it saw would miss an older
row that commits after it. So whoever inserts holds a lock, shared with all others, and readers wait for those
who held it when the newest id was given. Nobody ever waits for a reader.
"""

from __future__ import annotations

import time
from typing import Final

from django.db import OperationalError, connection
from django.db.models import Max

from keyvault.models import Delivery

# An advisory lock of PostgreSQL, held from before the first row gets its id until the commit.
INSERTING: Final = 0x6B74666F6C64
MOST_WAITED: Final = 2.0  # seconds
_ASK_EVERY: Final = 0.003
_INSERTERS: Final = """
    SELECT virtualtransaction FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
      AND classid::bigint = %s AND objid::bigint = %s AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def hold() -> None:
    """Call it in the transaction that inserts deliveries, before it does. Keep that transaction short."""
    if connection.vendor == "postgresql":  # SQLite has one writer at a time
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [INSERTING])


def wait_for_inserters() -> None:
    """Until everybody who is inserting now has committed or given up. Call it outside a transaction.

    Raises ``OperationalError`` if somebody does not end.
    """
    if connection.vendor != "postgresql":
        return
    began, deadline = _inserters(), time.monotonic() + MOST_WAITED
    while began and began & _inserters():
        if time.monotonic() > deadline:
            raise OperationalError("Somebody who inserts deliveries does not end.")
        time.sleep(_ASK_EVERY)


def newest_delivery() -> int:
    """The highest id of a delivery below which no further one will appear. Raises ``OperationalError``."""
    if connection.vendor != "postgresql":
        # One writer at a time: ids are in the order of commits.
        return Delivery.objects.aggregate(last=Max("id"))["last"] or 0
    with connection.cursor() as cursor:
        # Asked before the inserters: who got this id, or an older one, is among them or has committed.
        cursor.execute(
            "SELECT pg_sequence_last_value(pg_get_serial_sequence(%s, 'id')::regclass)",
            [Delivery._meta.db_table],
        )
        newest = cursor.fetchone()[0] or 0
    wait_for_inserters()
    return int(newest)


def _inserters() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(_INSERTERS, [INSERTING >> 32, INSERTING & 0xFFFFFFFF])
        return {row[0] for row in cursor.fetchall()}
