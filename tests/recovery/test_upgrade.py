"""An upgrade: migrations leave the code that still runs alone, and a backup of older code is put back.

The drill with live traffic takes two versions of the code: ``python -m tests.recovery.upgrade REVISION``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from django.core.management import call_command
from django.db import connection, models
from django.db.migrations import operations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from keyvault import clock
from keyvault.crypto import signed
from keyvault.crypto.archive import KIND, ArchiveWriter, creating
from keyvault.keystore import installation_id, keys
from keyvault.models import AuditHead, ChangeCounter
from keyvault.services import backups, keks, quarantine, tables
from rotation.services import restoring
from tests.conftest import Tell
from tests.installations import Installation
from tests.integration.furniture import ask, fresh_secret, furnish
from tests.recovery.putting_back import Safe, new_host, restore

pytestmark = pytest.mark.xdist_group("recovery")

OURS: Final = ("keyvault", "rotation")
# The last migrations before the first release: nobody runs code that is older than these.
BASELINE: Final = {"keyvault": 12, "rotation": 14}
# What a migration after a release may do while the release before it still runs on the same database.
# Anything else is done in two releases: first nobody uses it any more, then it goes.
EXPANDING: Final = (
    operations.AddIndex,
    operations.AlterModelManagers,
    operations.AlterModelOptions,
    operations.CreateModel,
    operations.RemoveConstraint,
    operations.RemoveIndex,
    operations.RunPython,
)


def contracting() -> Iterator[tuple[str, str, Operation]]:
    """Every operation that older code would notice: app, migration and what it does."""
    loader = MigrationLoader(None)
    for (app, name), migration in sorted(loader.disk_migrations.items()):
        if app not in OURS:
            continue
        fresh = {one.name_lower for one in migration.operations if isinstance(one, operations.CreateModel)}
        for operation in migration.operations:
            if isinstance(operation, EXPANDING) or adds_only(operation):
                continue
            if getattr(operation, "model_name", "").lower() not in fresh:  # nobody writes a new table yet
                yield app, name, operation


def adds_only(operation: Operation) -> bool:
    """A column that older code may leave out when it inserts a row.

    A default of Django's own does not help: it is not in the database.
    """
    if not isinstance(operation, operations.AddField):
        return False
    field = operation.field
    return isinstance(field, models.ManyToManyField) or field.null or field.has_db_default()


def test_migrations_leave_the_code_that_still_runs_alone(tell: Tell) -> None:
    found = list(contracting())
    after = [
        f"{app}.{name}: {operation.describe()}"
        for app, name, operation in found
        if int(name[:4]) > BASELINE[app]
    ]
    assert after == []
    assert found, "the scan finds nothing"
    tell("migrations", {"operations that older code would notice, before the first release": len(found)})


def older(installation: Installation, safe: Safe, folder: Path) -> Path:
    """A backup as the code of before ``keyvault.0011`` would have made it: of its tables, signed."""
    call_command("migrate", "keyvault", "0010", verbosity=0)
    executor = MigrationExecutor(connection)
    graph, applied = executor.loader.graph, executor.loader.applied_migrations
    heads = {
        app: name
        for app, name in applied
        if not any(
            child.key[0] == app and child.key in applied for child in graph.node_map[app, name].children
        )
    }
    old = executor.loader.project_state(sorted(heads.items())).apps
    file, now, head = folder / "older.backup", clock.now(), AuditHead.objects.get()
    with creating(file) as stream:
        writer = ArchiveWriter(stream, [safe.recipient])
        with tables.snapshot():
            for name, model in tables.tables(old).items():
                writer.add(name, tables.columns_of(model), tables.read(model))
        told = {
            "audit": {"sequence": head.sequence, "mac": bytes(head.mac).hex()},
            "changes": ChangeCounter.objects.get().seq,
            "keks": {},
            "id": "00000000-0000-4000-8000-000000000000",
            "installation": installation_id(),
            "made_at": now.isoformat(),
            "expires_at": (now + timedelta(days=1)).isoformat(),
            "keyturn": "0.0.1",
            "database": connection.vendor,
            "migrations": heads,
        }
        writer.finish(signed.sign(keys().service, KIND, {**writer.describe(), **told}))
    return file


def test_a_backup_of_older_code_is_put_back_and_migrated(installation: Installation, tmp_path: Path) -> None:
    secret, furniture = fresh_secret(), furnish()
    furniture.key(secret=secret)
    _, token = furniture.reader()
    keks.check_canaries(now=clock.now())
    restoring.watch(clock.now())
    safe = Safe(tmp_path)
    file = older(installation, safe, tmp_path)
    with new_host(installation, tmp_path / "new"):
        assert restore(file, safe).endswith("Next: keyturn serve\n")
        assert tables.is_migrated()
        assert quarantine.everything() is None
        assert backups.kids_in_backups(clock.now()) == set()
        assert ask(token, furniture.service.slug).document["key"] == secret.expose()
