"""Putting a backup back: everything or nothing, into a database that holds nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.apps import apps as current_apps
from django.apps.registry import Apps
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import StateApps

from keyvault.crypto.archive import Archive, ArchiveError
from keyvault.keystore import forget_installation
from keyvault.models import Change, ChangeCounter
from keyvault.services import backups, tables


class CannotRestore(Exception):
    """Nothing was put back; the text says why and what to do."""


def restore(
    archive: Archive, identity: X25519PrivateKey, *, without: bool = False, then: Callable[[], None]
) -> int:
    """Put back everything that a backup holds; returns how many rows. ``then`` belongs to the transaction.

    The whole file is checked before a row is written. A backup of older code is put back as that code had it,
    and migrated. ``without``: also where this keyring lacks KEKs that it needs. Raises ``CannotRestore``,
    ``ArchiveError``.
    """
    archive.check(backups.key_set())
    manifest = archive.manifest
    missing = backups.missing_kids(manifest["keks"])
    if missing and not without:
        raise CannotRestore(
            f"The keyring here lacks the KEKs {', '.join(missing)}. Recover the keyring from escrow first "
            "(keyturn keyring recover). --without-keks restores all the same: what they sealed stays closed."
        )
    apps = _make_room(manifest)
    older = apps is not current_apps
    try:
        # SQLite remakes tables only where foreign keys were let go before the transaction began.
        with connection.constraint_checks_disabled() if older else nullcontext(), transaction.atomic():
            rows = _load(archive, identity, apps)
            if older:
                connection.check_constraints()
                call_command("migrate", verbosity=0, interactive=False)
            then()
    except DatabaseError as error:
        raise CannotRestore(
            f"The database refused what is in it, and nothing was put back: {error}"
        ) from error
    finally:
        forget_installation()
    return rows


def _make_room(manifest: Mapping[str, Any]) -> Apps | StateApps:
    """The tables as the backup's code had them, all of them empty."""
    if not tables.is_migrated():
        raise CannotRestore("The database is not ready. Run: keyturn migrate. Then restore again.")
    full = tables.first_with_rows(list(tables.tables().values()))
    if full:
        raise CannotRestore(
            f"The table {full} is not empty. A backup is put back into a new database only: name another one "
            "in DATABASE_URL (or move the SQLite file away), run keyturn migrate, then restore again."
        )
    heads: dict[str, str] = manifest["migrations"]
    if heads == tables.heads():
        return current_apps
    executor = MigrationExecutor(connection)
    targets = sorted(heads.items())
    if unknown := [
        f"{app}.{name}" for app, name in targets if (app, name) not in executor.loader.graph.nodes
    ]:
        raise CannotRestore(
            f"It was made by Keyturn {manifest['keyturn']}, which has migrations that this one lacks "
            f"({', '.join(unknown)}). Restore it with that version or a later one."
        )
    executor.migrate(targets)
    return executor.loader.project_state(targets).apps


def _load(archive: Archive, identity: X25519PrivateKey, apps: Apps | StateApps) -> int:
    known = tables.tables(apps)
    if {part.name for part in archive.parts} != known.keys():
        raise ArchiveError("It does not hold the tables of its own version.")
    for name in sorted(tables.FILLED):  # permissions go before the types that they belong to
        known[name]._base_manager.all().delete()
    for part, lines in archive.lines(identity):
        tables.write(known[part.name], part.columns, lines)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Now: what the triggers write about all of this is taken away below.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    tables.renumber(list(known.values()))
    # A number that no process can have seen here: whoever remembers something begins anew.
    changes = archive.manifest["changes"] + 1
    Change.objects.all().delete()
    ChangeCounter.objects.update_or_create(pk=1, defaults={"seq": changes, "floor": changes})
    return sum(part.rows for part in archive.parts)
