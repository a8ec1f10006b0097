"""Backups of a test's installation, put back into new databases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import call_command

from keyvault.services import tables
from tests.installations import Installation, new_database
from tests.migrated import migrate

OUTSIDE = ("keyring.json", "mark.json", "journal.jsonl")  # what stands beside a database


class Safe:
    """An identity and the recipient that backups are sealed for."""

    def __init__(self, folder: Path, name: str = "identity") -> None:
        self.file = folder / name
        self.recipient = command("backup", "keygen", str(self.file)).strip()


def command(*arguments: str, **options: Any) -> str:
    """What the command prints."""
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=StringIO(), **options)
    return out.getvalue()


def back_up(safe: Safe, *more: str) -> Path:
    """The file of a fresh backup."""
    printed = command("backup", "--recipient", safe.recipient, *more)
    return Path(printed.split(": ", 1)[0])


def restore(file: Path, safe: Safe, *more: str) -> str:
    return command("restore", str(file), "--identity", str(safe.file), *more)


@contextmanager
def new_host(
    lost: Installation, folder: Path, *, beside: tuple[str, ...] = OUTSIDE
) -> Iterator[Installation]:
    """Another data directory and an empty migrated database, in force. ``beside``: files that were saved."""
    data = folder / "data"
    data.mkdir(mode=0o700, parents=True)
    for name in beside:
        if (lost.data / name).exists():
            shutil.copy2(lost.data / name, data / name)
    if (lost.data / "checkpoints").exists() and "mark.json" in beside:
        shutil.copytree(lost.data / "checkpoints", data / "checkpoints")
    fresh = Installation(data, new_database(lost.url) if lost.url else "")
    was = settings.KEYTURN_DATA
    settings.KEYTURN_DATA = data
    try:
        with fresh.in_force():
            migrate()
            yield fresh
    finally:
        settings.KEYTURN_DATA = was


def everything() -> dict[str, list[bytes]]:
    """Every row of the database that is in force, exactly, by table."""
    with tables.snapshot():
        return {name: list(tables.read(model)) for name, model in tables.tables(apps).items()}
