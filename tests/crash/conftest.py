"""A database server and an installation that tests may treat badly."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from tests.installations import Installation, OwnPostgreSQL, install


@dataclass(frozen=True)
class Breakable:
    """An installation on a PostgreSQL server that may be killed and started again."""

    postgresql: OwnPostgreSQL
    installation: Installation


@pytest.fixture(scope="session")
def _own_postgresql(django_db_blocker: DjangoDbBlocker) -> Iterator[Breakable]:
    # Not in pytest's folder: the server runs as another user, who may not look there.
    folder = Path(tempfile.mkdtemp(prefix="keyturn-crash-"))
    postgresql = OwnPostgreSQL(folder)
    try:
        with django_db_blocker.unblock():
            yield Breakable(postgresql, install(folder, postgresql.url))
    finally:
        postgresql.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def breakable(_own_postgresql: Breakable, django_db_blocker: DjangoDbBlocker) -> Iterator[Breakable]:
    """In force: rows that a test makes through the services go there. It runs, whatever the last test did."""
    _own_postgresql.postgresql.start()
    with django_db_blocker.unblock(), _own_postgresql.installation.in_force():
        yield _own_postgresql


@pytest.fixture
def installation(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Installation]:
    """One on the database of this run, in force."""
    with django_db_blocker.unblock():
        fresh = install(tmp_path, os.environ.get("DATABASE_URL", ""))
        with fresh.in_force():
            yield fresh
