"""Whole installations for tests: a data directory, a database, and real web servers that tests may kill.

Nothing is rolled back here: rows are made through the services in this process, which is pointed at the
installation's database, and every test makes names of its own.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from django.conf import settings as django_settings
from django.db import connection, connections

from keyvault import clock, keystore
from keyvault.crypto.keyring import Keyring
from keyvault.project.databases import database_settings
from tests.api.conftest import Server
from tests.api.wire import exchange
from tests.bootstrap import start_postgresql
from tests.integration.processes import alive, descendants, end, free_port, start, wait_for
from tests.migrated import migrate


@dataclass(frozen=True)
class Installation:
    """``url`` is "" for the SQLite file in ``data``."""

    data: Path
    url: str

    @property
    def log(self) -> Path:
        return self.data / "server.log"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """This process uses its database and keyring."""
        held = connections.settings["default"]
        old = dict(held), django_settings.KEYTURN_KEYRING
        connection.close()
        held.update(
            {
                name: text
                for name, text in database_settings(self.url, self.data, pool_size=0).items()
                if name in ("NAME", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS")
            }
        )
        django_settings.KEYTURN_KEYRING = self.data / "keyring.json"
        keystore.forget_installation()
        try:
            yield
        finally:
            connection.close()
            held.update(old[0])
            django_settings.KEYTURN_KEYRING = old[1]
            keystore.forget_installation()


def install(folder: Path, server_url: str) -> Installation:
    """A fresh installation; ``server_url`` is that of a PostgreSQL server, or "" for SQLite."""
    from rotation.services.policies import install_all

    data = folder / "data"
    data.mkdir(mode=0o700, parents=True)
    Keyring.create_file(data / "keyring.json", ["dev", "staging", "prod", "system"])
    url = new_database(server_url) if server_url else ""
    installation = Installation(data, url)
    with installation.in_force():
        migrate()
        install_all(now=clock.now())
    return installation


def new_database(server_url: str) -> str:
    name = f"load_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


@dataclass
class Web:
    """What ``keyturn serve`` starts for the web: granian, with worker processes forked from one parent."""

    installation: Installation
    port: int
    workers: int
    settings: Mapping[str, str] = field(default_factory=dict)
    data: Path | None = None
    process: Popen[bytes] | None = None

    @property
    def server(self) -> Server:
        """As the helpers for single requests want it."""
        installation = self.installation
        return Server(self.port, self.data or installation.data, "", installation.log)

    def start(self) -> None:
        """Start it and wait for the first answer and for every worker process."""
        environment = {
            **os.environ,
            "DATABASE_URL": self.installation.url,
            "KEYTURN_DATA": str(self.data or self.installation.data),
            "KEYTURN_KEYRING": str(self.installation.data / "keyring.json"),
            "KEYTURN_DATABASE_POOL": "4",
            "KEYTURN_WEB_THREADS": "4",
            "KEYTURN_LISTEN_PORT": str(self.port),
            "KEYTURN_WORKERS": str(self.workers),
            **self.settings,
        }
        if not self.installation.url:
            environment["DATABASE_URL"] = f"sqlite:///{self.installation.data / 'keyturn.sqlite3'}"
        command = [sys.executable, "-m", "keyvault.project.children", "web"]
        self.process = start(command, environment, self.installation.log)
        wait_for(lambda: self.answers() or self.ended(), "the server answers")
        assert not self.ended(), self.installation.log.read_text()[-4000:]
        wait_for(lambda: len(self.living()) == self.workers, "every worker process")

    def answers(self) -> bool:
        try:
            return exchange(self.port, "GET", "/v1/.well-known/jwks.json", (), None).status == 200
        except OSError:
            return False

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def living(self) -> list[psutil.Process]:
        """The worker processes, oldest first."""
        assert self.process is not None
        return sorted(alive(descendants(self.process.pid)), key=lambda process: process.create_time())

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        wait_for(self.ended, "the server ends")

    def end(self) -> None:
        if self.process is not None:
            end(self.process)


@contextmanager
def web(
    installation: Installation,
    port: int = 0,
    *,
    workers: int = 2,
    data: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Web]:
    """``settings`` are environment variables; ``port`` 0 is any free one.

    ``data``: a data directory of its own, as on another host.
    """
    started = Web(installation, port or free_port(), workers, settings or {}, data)
    try:
        started.start()
        yield started
    finally:
        started.end()


class OwnPostgreSQL:
    """A PostgreSQL server of a test's own, which the test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self._server: Any = start_postgresql(folder / "postgresql", killed=True)
        self.url = str(self._server.get_uri())

    def kill(self) -> float:
        """SIGKILL to every one of its processes at once. Connections of this process are let go.

        Returns when it could do nothing any more, by the monotonic clock; a busy machine takes a while to
        clear it away.
        """
        connection.close()
        postmaster = psutil.Process(self._server.get_pid())
        postmaster.suspend()  # so that it starts no other meanwhile, which would outlive it
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # its client has left, or it saw that the first one died
                process.kill()
        killed = time.monotonic()
        psutil.wait_procs(processes, timeout=20)
        wait_for(lambda: not alive(processes), "PostgreSQL is gone")
        return killed

    def start(self) -> None:
        """Start it again; it recovers from what it had written."""
        self._server.ensure_postgres_running()
        assert self._server.get_uri() == self.url

    def end(self) -> None:
        self._server.stop()
        # It would say goodbye on a log stream that is closed by then.
        atexit.unregister(self._server._cleanup)
