"""Whether anything was written: a mark of every row of the database, taken in one query."""

from __future__ import annotations

from django.db import connection

from keyvault.audit import SEALS
from keyvault.models import AuditEvent, AuditHead, Heartbeat, KekHolder, SealMark
from keyvault.services.replays import EVENT

# Deliveries are sealed within a second, and a dead token that is used again is noted: the audit goes on for
# requests that came before, and for some of these. Processes say that they live, and which KEKs they hold.
_GOES_ON = frozenset(
    model._meta.db_table for model in (AuditEvent, AuditHead, SealMark, Heartbeat, KekHolder)
)
_NOTED = sorted({*SEALS, EVENT})


def mark() -> list[tuple[object, ...]]:
    """How many rows each table has, and the newest. On PostgreSQL an update makes a row new as well."""
    newest = "max(xmin::text::bigint)" if connection.vendor == "postgresql" else "max(rowid)"
    tables = sorted(set(connection.introspection.table_names()) - _GOES_ON)
    union = " UNION ALL ".join(f"SELECT '{name}', count(*), {newest} FROM \"{name}\"" for name in tables)
    with connection.cursor() as cursor:
        cursor.execute(union)
        rows = list(cursor.fetchall())
    return [*rows, ("audit", AuditEvent.objects.exclude(name__in=_NOTED).count())]
