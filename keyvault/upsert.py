"""One row inserted, or what is to happen to the row that is there: one statement, where Django takes four.

What is written again and again is written by statements that are made once. No signals are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

Fields = tuple["models.Field[Any, Any]", ...]


@lru_cache
def _insertion(model: type[models.Model], with_key: bool) -> tuple[str, str, Fields]:
    """The statement up to the values, the places of one row, and what goes there."""
    fields = tuple(field for field in model._meta.concrete_fields if with_key or not field.primary_key)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(["%s"] * len(fields))
    return f'INSERT INTO "{model._meta.db_table}" ({columns}) VALUES ', f"({places})", fields  # noqa: S608


@lru_cache(maxsize=256)
def _change(model: type[models.Model], names: tuple[str, ...]) -> tuple[str, Fields]:
    fields = tuple(
        field
        for field in model._meta.concrete_fields
        if not field.primary_key and (not names or field.name in names)
    )
    assignments = ", ".join(f'"{field.column}" = %s' for field in fields)
    key = model._meta.pk
    return f'UPDATE "{model._meta.db_table}" SET {assignments} WHERE "{key.column}" = %s', (*fields, key)  # noqa: S608


def _values(row: models.Model, fields: Fields, db: BaseDatabaseWrapper) -> list[Any]:
    return [field.get_db_prep_save(getattr(row, field.attname), db) for field in fields]


def insert(row: models.Model, on_conflict: str = "") -> bool:
    """INSERT this row with that ON CONFLICT clause. Returns whether a row was written.

    A primary key that the database gives is not read back.
    """
    return insert_all([row], on_conflict) == 1


def insert_all(rows: Sequence[models.Model], on_conflict: str = "") -> int:
    """``insert`` for rows of one table, in one statement. Returns how many were written."""
    if not rows:
        return 0
    head, places, fields = _insertion(type(rows[0]), rows[0].pk is not None)
    db = connections[DEFAULT_DB_ALIAS]
    values = [value for row in rows for value in _values(row, fields, db)]
    with db.cursor() as cursor:
        cursor.execute(f"{head}{', '.join([places] * len(rows))} {on_conflict}", values)
        for row in rows:
            row._state.adding = False
        return int(cursor.rowcount)


def update(row: models.Model, *names: str) -> None:
    """Write these fields (none named: all) of a row that is there. Raises ``ObjectDoesNotExist``."""
    statement, fields = _change(type(row), names)
    db = connections[DEFAULT_DB_ALIAS]
    with db.cursor() as cursor:
        cursor.execute(statement, _values(row, fields, db))
        if not cursor.rowcount:
            raise ObjectDoesNotExist
