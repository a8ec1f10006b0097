"""Fresh databases for tests. Migrating one takes seconds, copying one that is migrated takes none."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Final

import psycopg
from django.core.management import call_command
from django.db import connection
from psycopg.conninfo import make_conninfo

# What this process has migrated already: by server, the file or the database to copy.
_kept: Final[dict[str, str]] = {}


def migrate() -> None:
    """Migrate the empty database that is in force; every further one of this process becomes a copy."""
    if connection.vendor == "sqlite":
        _migrate_file(Path(connection.settings_dict["NAME"]))
    else:
        _migrate_database(connection.settings_dict["NAME"])


def _migrate_file(file: Path) -> None:
    kept = _kept.get("")
    connection.close()
    if kept is not None:
        shutil.copyfile(kept, file)
        return
    call_command("migrate", verbosity=0)
    connection.close()
    _kept[""] = str(Path(os.environ["KEYTURN_DATA"]) / "migrated.sqlite3")
    shutil.copyfile(file, _kept[""])


def _migrate_database(name: str) -> None:
    given = connection.get_connection_params()
    where = {option: given[option] for option in ("host", "port", "user", "password") if given.get(option)}
    server = make_conninfo("", **where, dbname="postgres")
    kept = _kept.get(server)
    if kept is None:
        call_command("migrate", verbosity=0)
        kept = _kept[server] = f"migrated_{uuid.uuid4().hex[:12]}"
        statements = [f'CREATE DATABASE "{kept}" TEMPLATE "{name}"']
    else:
        statements = [f'DROP DATABASE "{name}"', f'CREATE DATABASE "{name}" TEMPLATE "{kept}"']
    connection.close()
    with psycopg.connect(server, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement)
