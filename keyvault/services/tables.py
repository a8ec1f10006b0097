"""Rows of every table as lines of text and back, exactly: ids, microseconds and bytes, on either database.

Reading happens in one snapshot, without keeping any writer waiting. Nothing holds more than a few hundred
rows.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, Final

from django.apps import apps as current_apps
from django.apps.registry import Apps
from django.core.management.color import no_style
from django.db import connection, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import StateApps

ROWS: Final = 500  # in one statement

# What is not taken along: who is signed in and links that are meant for minutes (whatever ended since would
# come back), the log of changes (memory of running processes), replies that are kept for a day, and the last
# beat.
LEFT_OUT: Final = frozenset(
    {
        "keyvault.change",
        "keyvault.changecounter",
        "keyvault.heartbeat",
        "keyvault.idempotentreply",
        "keyvault.kekholder",
        "keyvault.setuplink",
        "sessions.session",
        "usersessions.usersession",
    }
)
# Migrations fill these. The rows that are put back replace them.
FILLED: Final = frozenset({"auth.permission", "contenttypes.contenttype", "keyvault.foldmark"})

Model = type[models.Model]


def tables(apps: Apps | StateApps = current_apps) -> dict[str, Model]:
    """Every table that is taken along, by ``app.model``."""
    found = (model for model in apps.get_models(include_auto_created=True) if model._meta.managed)
    named = {model._meta.label_lower: model for model in found if not model._meta.proxy}
    return {name: named[name] for name in sorted(named) if name not in LEFT_OUT}


def columns_of(model: Model) -> list[str]:
    return [field.attname for field in model._meta.concrete_fields]


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything that is read within is as of one moment. Writers go on meanwhile."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
        return
    with connection.cursor() as cursor:
        # Not atomic(): it would take the lock of the one writer for as long as this lasts.
        cursor.execute("BEGIN")
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def read(model: Model) -> Iterator[bytes]:
    """One line for each row, in the order of their keys."""
    names = columns_of(model)
    for row in model._base_manager.order_by("pk").values_list(*names).iterator(chunk_size=ROWS):
        yield json.dumps([_plain(value) for value in row], separators=(",", ":")).encode() + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    return value  # what JSON has; anything else is refused by it


def write(model: Model, names: Sequence[str], lines: Iterator[bytes]) -> None:
    """Insert the rows of these lines as they are: no default, no signal and no clock has a say."""
    fields = {field.attname: field for field in model._meta.concrete_fields}
    chosen = [fields[name] for name in names]
    made = [_maker(field) for field in chosen]
    quote = connection.ops.quote_name
    into = ", ".join(quote(str(field.column)) for field in chosen)
    slots = ", ".join(["%s"] * len(chosen))
    # Only names of ours in the text.
    statement = f"INSERT INTO {quote(model._meta.db_table)} ({into}) VALUES ({slots})"  # noqa: S608
    with connection.cursor() as cursor:
        while batch := list(islice(lines, ROWS)):
            rows = [
                [make(value) for make, value in zip(made, json.loads(line), strict=True)] for line in batch
            ]
            cursor.executemany(statement, rows)


def _maker(field: models.Field[Any, Any]) -> Callable[[Any], Any]:
    """From what stands in a line to what the database's driver takes."""
    target = field
    while isinstance(target, models.ForeignKey):
        target = target.target_field
    if isinstance(target, models.JSONField):
        return lambda value: field.get_db_prep_save(value, connection)
    if isinstance(target, models.BinaryField):
        return lambda value: field.get_db_prep_save(
            None if value is None else base64.b64decode(value), connection
        )
    return lambda value: field.get_db_prep_save(target.to_python(value), connection)


def first_with_rows(found: Sequence[Model]) -> str:
    """A table that is not empty and that migrations do not fill; "" for none."""
    for model in found:
        if model._meta.label_lower not in FILLED and model._base_manager.exists():
            return model._meta.db_table
    return ""


def renumber(found: Sequence[Model]) -> None:
    """The next number of each table comes after those that were put back."""
    statements = connection.ops.sequence_reset_sql(no_style(), list(found))
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


# Migrations ----------------------------------------------------------------------------------------


def heads() -> dict[str, str]:
    """The last migration of each app that this code has."""
    executor = MigrationExecutor(connection)
    return dict(executor.loader.graph.leaf_nodes())


def is_migrated() -> bool:
    """Whether the database has every migration of this code."""
    executor = MigrationExecutor(connection)
    return not executor.migration_plan(executor.loader.graph.leaf_nodes())
