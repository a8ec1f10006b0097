"""Fixtures for every room, and the fences around the suite: loopback only, one database per run."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.bootstrap import chosen_database
from tests.resolving.sitecustomize import closed

TOLD = "told"
# What these hold does not depend on the database, so the second run leaves them out. The console calls the
# same services as the API, and the browser visits every page besides.
ONCE = (
    "architecture/",
    "browser/",
    "drivers/",
    "integration/test_console_",
    "leaks/",
    "properties/test_crypto",
    "unit/",
    "api/test_schema.py",
)
TWICE = ("test_console_audit.py", "test_console_queries.py", "test_console_records.py")
# Management is asked over the wire on the database of production; on SQLite the pages and the access rules
# do the same.
POSTGRESQL = ("api/management/", "api/test_schemathesis.py", "api/delivery/test_whole_document.py")
# These share servers, which each process of the run would start for itself.
TOGETHER = ("api/", "browser/")
# One thread tells a story, so a second database adds little; these are told on both. What PostgreSQL alone
# can show (locks, races, crashes) has tests of its own in concurrency/ and crash/.
STORIES_TWICE = ("test_glance.py", "test_happy_day.py")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that mean something on this run's database."""
    unwanted = "once" if chosen_database() == "postgresql" else "postgresql"
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here).as_posix()
        one = place.startswith(ONCE) and item.path.name not in TWICE
        if one or (place.startswith("stories/") and item.path.name not in STORIES_TWICE):
            item.add_marker(pytest.mark.once)
        if place.startswith(POSTGRESQL):
            item.add_marker(pytest.mark.postgresql)
        if item.get_closest_marker("serial"):
            item.add_marker(pytest.mark.xdist_group("serial"))
        elif place.startswith(TOGETHER):
            item.add_marker(pytest.mark.xdist_group(item.path.parent.name))
    dropped = [item for item in items if item.get_closest_marker(unwanted)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not item.get_closest_marker(unwanted)]


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_report_header() -> str:
    return f"keyturn: database {chosen_database()}"


class Tell(Protocol):
    """Says what was counted, by name: it stands in the summary of the run, whichever process ran the test."""

    def __call__(self, what: str, counted: Mapping[str, object], /) -> None: ...


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    def say(what: str, counted: Mapping[str, object], /) -> None:
        record_property(TOLD, f"{what}: " + ", ".join(f"{name} {value}" for name, value in counted.items()))

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {text}"
        for report in reports
        for name, text in report.user_properties
        if name == TOLD
    ]
    if lines:
        terminalreporter.section("counted")
        for line in sorted(set(lines)):
            terminalreporter.write_line(line)


class OutsideWorld(RuntimeError):
    """A test tried to reach a host that is not this one."""


def _is_loopback(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a socket file
    host = str(address[0])
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Connecting to anything but this machine raises, whatever library tries it; no name server is asked."""
    patch = pytest.MonkeyPatch()
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_loopback(address):
            raise OutsideWorld(f"connect to {address!r}")
        connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        if not _is_loopback(address):
            raise OutsideWorld(f"connect to {address!r}")
        return connect_ex(self, address)

    patch.setattr(socket.socket, "connect", guarded)
    patch.setattr(socket.socket, "connect_ex", guarded_ex)
    patch.setattr(socket, "getaddrinfo", closed(socket.getaddrinfo))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def leak_watch() -> Iterator[Any]:
    from tests.leaks.watch import watching

    with watching() as watch:
        yield watch


@pytest.fixture(autouse=True)
def _no_leak(leak_watch: Any) -> Iterator[None]:
    """No secret that a test made is in a log or in a statement to the database, in any test."""
    leak_watch.listen()
    yield
    found, leak_watch.found = leak_watch.found, []
    assert found == [], "a secret was seen"


@pytest.fixture(autouse=True)
def _fresh_installation() -> Iterator[None]:
    """The installation's id belongs to a database, and every test has its own; attempts are counted anew."""
    from django.core.cache import cache

    from keyvault import keystore

    keystore.forget_installation()
    cache.clear()
    yield
    keystore.forget_installation()


@pytest.fixture(scope="session", autouse=True)
def _flush_past_the_guards() -> Iterator[None]:
    """Between two tests tables are emptied, which the database refuses for the audit chain, as it should."""
    from django.db.backends.base.operations import BaseDatabaseOperations

    flush = BaseDatabaseOperations.execute_sql_flush

    def flush_all(self: Any, sql_list: list[str]) -> None:
        if self.connection.vendor == "postgresql":
            # As a replica would: no trigger fires.
            off, on = ["SET session_replication_role = replica"], ["SET session_replication_role = DEFAULT"]
        else:
            with self.connection.cursor() as cursor:
                cursor.execute(
                    "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit%'"
                )
                found = cursor.fetchall()
            off, on = [f"DROP TRIGGER {name}" for name, _ in found], [sql for _, sql in found]
        flush(self, [*off, *sql_list, *on])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseOperations, "execute_sql_flush", flush_all)
        yield


@pytest.fixture(scope="session")
def database_vendor() -> str:
    """``sqlite`` or ``postgresql``."""
    return chosen_database()


@pytest.fixture
def data_dir(tmp_path: Path, settings: Any) -> Path:
    """An empty data directory with a keyring of its own, in force for this test."""
    from keyvault.crypto.keyring import Keyring

    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    Keyring.create_file(folder / "keyring.json", ["dev", "staging", "prod", "system"])
    settings.KEYTURN_DATA = folder
    settings.KEYTURN_KEYRING = folder / "keyring.json"
    settings.KEYTURN_KEYRING_JSON = ""
    return folder


@pytest.fixture
def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on and that nobody else is given."""
    from tests.integration.processes import free_port as another

    return another()


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a real process with its own installation: SQLite, files, nothing inherited."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("KEYTURN_")}
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "ALLOWED_HOSTS", "CACHE_URL", "PYTEST_XDIST_WORKER"):
        kept.pop(name, None)
    return {**kept, "KEYTURN_DATA": str(tmp_path / "installation"), "KEYTURN_ENV_FILE": os.devnull}
