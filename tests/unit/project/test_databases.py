"""Which database settings a URL gives, and that SQLite really runs with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import connection

from keyvault.project.databases import database_settings

DATA = Path("/data")


def test_without_a_url_the_database_is_a_file_in_the_data_directory() -> None:
    found = database_settings("", DATA, pool_size=8)
    assert found["ENGINE"] == "django.db.backends.sqlite3"
    assert found["NAME"] == "/data/keyturn.sqlite3"
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_postgresql_prepares_statements_and_pools_connections() -> None:
    found = database_settings("postgres://u:p@h:5433/n?sslmode=require", DATA, pool_size=8)
    options = found["OPTIONS"]
    assert (found["HOST"], found["PORT"], found["NAME"]) == ("h", 5433, "n")
    assert options["sslmode"] == "require"
    assert (options["server_side_binding"], options["prepare_threshold"]) == (True, 1)
    assert options["pool"]["max_size"] == 8
    assert found["CONN_MAX_AGE"] == 0


def test_without_a_pool_each_thread_keeps_its_connection() -> None:
    found = database_settings("postgres://u:p@h/n", DATA, pool_size=0)
    assert "pool" not in found["OPTIONS"]
    assert found["CONN_MAX_AGE"] == 60
    assert found["CONN_HEALTH_CHECKS"] is True


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        database_settings("mysql://u:hunter22@h/n", DATA, pool_size=0)


@pytest.mark.django_db
@pytest.mark.once
def test_sqlite_survives_power_cuts_and_lets_readers_go_on() -> None:
    with connection.cursor() as cursor:
        found = {}
        for pragma in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys", "secure_delete"):
            cursor.execute(f"pragma {pragma}")
            found[pragma] = cursor.fetchone()[0]
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "busy_timeout": 20000,
        "foreign_keys": 1,
        "secure_delete": 1,
    }
