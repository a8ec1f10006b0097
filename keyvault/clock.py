"""The clock. Only tasks, commands and views read it; everything below gets the time as an argument."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection


def now() -> datetime:
    """The database's time, aware UTC.

    Many hosts share one PostgreSQL, so its clock is the one that decides; inside a transaction it
    still moves on (``clock_timestamp``). SQLite has no clock of its own: it runs in this process.
    """
    if connection.vendor != "postgresql":
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("select clock_timestamp()")
        row = cursor.fetchone()
    moment: datetime = row[0]
    return moment.astimezone(UTC)
