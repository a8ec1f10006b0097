"""Whether anything was written: a mark of every row of the database, taken in one query."""

from __future__ import annotations

from django.db import connection

# Who was seen and what was sealed may be written by what came before.
_ON_ITS_OWN = frozenset({"django_migrations"})


def mark() -> list[tuple[object, ...]]:
    """How many rows each table has, and the newest. On PostgreSQL an update makes a row new as well."""
    newest = (
        "coalesce(max(xmin::text::bigint), 0)"
        if connection.vendor == "postgresql"
        else "coalesce(max(rowid), 0)"
    )
    tables = [name for name in connection.introspection.table_names() if name not in _ON_ITS_OWN]
    union = " UNION ALL ".join(
        f"SELECT '{name}', count(*), {newest} FROM \"{name}\"" for name in sorted(tables)
    )
    with connection.cursor() as cursor:
        cursor.execute(union)
        return list(cursor.fetchall())
