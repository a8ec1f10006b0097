"""Installations whose database is lost and put back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import DjangoDbBlocker

from tests.installations import Installation, install


@pytest.fixture
def installation(tmp_path: Path, settings: Any, django_db_blocker: DjangoDbBlocker) -> Iterator[Installation]:
    """One on the database of this run, in force."""
    with django_db_blocker.unblock():
        fresh = install(tmp_path, os.environ.get("DATABASE_URL", ""))
        settings.KEYTURN_DATA = fresh.data
        with fresh.in_force():
            yield fresh
