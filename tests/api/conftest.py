"""A real server in a process of its own, with a data directory and a database of its own.

``server`` starts once a session. ``installed`` points this process at the server's database and keyring, so
that tests make their rows through the services; nothing is rolled back, so every test makes names of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connection
from pytest_django import DjangoDbBlocker

from keyvault import clock, keystore
from keyvault.crypto.keyring import Keyring
from tests.api.wire import Reply, exchange
from tests.integration.processes import free_port
from tests.migrated import migrate
from tests.resolving import sitecustomize

START_SECONDS = 120
# The names that its servers know.
RESOLVING = Path(sitecustomize.__file__).parent


@dataclass(frozen=True)
class Server:
    """Keyturn behind granian on 127.0.0.1; ``send`` is one request over a fresh connection."""

    port: int
    data: Path
    database: str
    log: Path

    @property
    def keyring(self) -> Path:
        return self.data / "keyring.json"

    def send(self, method: str, target: str, *headers: tuple[str, str], body: bytes | None = None) -> Reply:
        return exchange(self.port, method, target, headers, body)


def _new_database(data: Path) -> tuple[str, str]:
    """The name of an empty database and its URL ("" for the SQLite file that is the default)."""
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        return str(data / "keyturn.sqlite3"), ""
    name = f"api_{uuid.uuid4().hex[:16]}"  # all workers share one server
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    return name, urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextmanager
def _pointed_at(database: str, keyring: Path) -> Iterator[None]:
    """This process uses that database and keyring."""
    old = connection.settings_dict["NAME"], django_settings.KEYTURN_KEYRING
    connection.close()
    connection.settings_dict["NAME"], django_settings.KEYTURN_KEYRING = database, keyring
    keystore.forget_installation()
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"], django_settings.KEYTURN_KEYRING = old
        keystore.forget_installation()


def start_server(
    data: Path, environment: dict[str, str], *, workers: int = 1
) -> tuple[subprocess.Popen[bytes], int]:
    """Start granian with the whole application and wait until it answers."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "granian",
        "--interface",
        "asgi",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--workers", str(workers), "--no-ws", "keyvault.project.asgi:application"]
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(RESOLVING), **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    if not _answers(process, port):
        stop_server(process)
        pytest.fail(f"The server did not start:\n{(data / 'server.log').read_text()[-4000:]}")
    return process, port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Ask until the server answers; False when it ended or the time is up."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            return exchange(port, "GET", "/v1/.well-known/jwks.json", (), None).status == 200
        except OSError:
            time.sleep(0.05)
    return False


def stop_server(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def serving(
    folder: Path, django_db_blocker: DjangoDbBlocker, *, workers: int = 2, **settings: str
) -> Iterator[Server]:
    """A server with an installation of its own in ``folder``; ``settings`` are environment variables."""
    from rotation.services.policies import install_all

    data = folder / "data"
    data.mkdir(mode=0o700)
    Keyring.create_file(data / "keyring.json", ["dev", "staging", "prod", "system"])
    database, url = _new_database(data)
    with django_db_blocker.unblock(), _pointed_at(database, data / "keyring.json"):
        migrate()
        install_all(now=clock.now())
    environment = {"KEYTURN_DATA": str(data), "DATABASE_URL": url, "KEYTURN_DATABASE_POOL": "8", **settings}
    process, port = start_server(data, environment, workers=workers)
    try:
        yield Server(port, data, database, data / "server.log")
    finally:
        stop_server(process)


API_RATE = 1_000_000  # requests a minute


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Iterator[Server]:
    # Two processes: whatever must hold for a token holds across them. People may ask as often as tests do.
    folder = tmp_path_factory.mktemp("api")
    with serving(folder, django_db_blocker, KEYTURN_API_RATE=f"{API_RATE}/min") as started:
        yield started


@pytest.fixture
def installed(server: Server, django_db_blocker: DjangoDbBlocker) -> Iterator[Server]:
    """The server, with this process pointed at its database and keyring for one test."""
    with django_db_blocker.unblock(), _pointed_at(server.database, server.keyring):
        yield server
