"""Tables without their indexes while a million rows go in: building an index afterwards takes far less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

# Primary keys stay: foreign keys of other tables hang on them.
_CONSTRAINTS = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid)
  FROM pg_constraint WHERE contype = 'u' AND conrelid = ANY(%s::regclass[])
"""
_INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
  FROM pg_index WHERE indrelid = ANY(%s::regclass[])
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


@contextmanager
def without_indexes(url: str, tables: Sequence[str]) -> Iterator[None]:
    """Drop unique constraints and indexes of these tables, and build them again when the block has ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        constraints = connection.execute(_CONSTRAINTS, [list(tables)]).fetchall()
        indexes = connection.execute(_INDEXES, [list(tables)]).fetchall()
        drop = [f"ALTER TABLE {table} DROP CONSTRAINT {name}" for table, name, _ in constraints]
        drop += [f"DROP INDEX {name}" for name, _ in indexes]
        build = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {body}" for table, name, body in constraints]
        build += [body for _, body in indexes]
        _execute(connection, drop)
        yield
        _execute(connection, ["SET maintenance_work_mem = '1GB'", *build])


def _execute(connection: psycopg.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        # Names and bodies are the database's own words, quoted by it.
        connection.execute(statement.encode())
