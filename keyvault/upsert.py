"""One row inserted, or what is to happen to the row that is there: one statement, where Django takes four."""

from __future__ import annotations

from django.db import connection, models


def insert(row: models.Model, on_conflict: str) -> bool:
    """INSERT this row with that ON CONFLICT clause. Returns whether a row was written.

    A primary key that the database gives is not read back.
    """
    fields = [
        field
        for field in row._meta.concrete_fields
        if not (field.primary_key and getattr(row, field.attname) is None)
    ]
    values = [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(["%s"] * len(fields))
    table = row._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f'INSERT INTO "{table}" ({columns}) VALUES ({places}) {on_conflict}', values)  # noqa: S608
        return bool(cursor.rowcount)
