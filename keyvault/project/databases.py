"""Database settings from one URL: SQLite as the embedded default, PostgreSQL for production."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import environ

# WAL lets readers go on while one writes; FULL makes a commit survive a power cut; IMMEDIATE takes the
# write lock at BEGIN, so that two read-then-write transactions queue up instead of one failing.
_SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL;"
    "PRAGMA synchronous=FULL;"
    "PRAGMA busy_timeout=20000;"
    "PRAGMA foreign_keys=ON;"
    "PRAGMA secure_delete=ON;"
)


def database_settings(url: str, data_dir: Path, *, pool_size: int) -> dict[str, Any]:
    """Django's ``DATABASES["default"]``.

    An empty ``url`` means SQLite in the data directory. ``pool_size`` is the most connections that one
    process keeps to PostgreSQL; 0 keeps one persistent connection per thread instead.
    Raises ``ValueError`` for any other kind of database.
    """
    parsed = dict(environ.Env.db_url_config(url or f"sqlite:///{data_dir / 'keyturn.sqlite3'}"))
    engine = parsed["ENGINE"]
    if engine == "django.db.backends.sqlite3":
        parsed["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": _SQLITE_PRAGMAS,
        }
        # The tests use a file too: a database in memory has no WAL and no second process.
        parsed["TEST"] = {"NAME": str(data_dir / "test.sqlite3")}
        return parsed
    if engine != "django.db.backends.postgresql":
        raise ValueError("DATABASE_URL must be a sqlite:// or postgres:// URL.")
    options: dict[str, Any] = {
        **parsed.get("OPTIONS", {}),
        "server_side_binding": True,
        "prepare_threshold": 1,
        "application_name": "keyturn",
    }
    if pool_size:
        options["pool"] = {"min_size": 1, "max_size": pool_size, "timeout": 10, "max_lifetime": 1800}
        parsed["CONN_MAX_AGE"] = 0
    else:
        parsed["CONN_MAX_AGE"] = 60
    parsed["CONN_HEALTH_CHECKS"] = True
    parsed["OPTIONS"] = options
    return parsed
