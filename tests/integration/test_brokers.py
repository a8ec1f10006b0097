"""The production brokers, for real: a worker performs a tick, and a killed worker's message comes back.

A tick is held in the middle by taking the database's write lock: no hook in the product is needed.
"""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyvault.project.broker import broker_settings
from tests.integration.processes import DEADLINE, end, free_port, start, wait_for

pytestmark = [pytest.mark.once, pytest.mark.serial]

SEND = """
import django
django.setup()
from keyvault.project.celery import app
app.send_task("rotation.tasks.tick")
"""

# Debian's command in the path changes the user; this is the server itself.
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed on this machine")
    return found


@pytest.fixture
def redis_url(tmp_path: Path, free_port: int) -> Iterator[str]:
    """A Redis server of this test's own, with its log of writes switched on."""
    folder = tmp_path / "redis"
    folder.mkdir()
    command = [
        program("redis-server"),
        *("--port", str(free_port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"),
    ]
    log = tmp_path / "redis.log"
    server = start(command, {"PATH": "/usr/bin:/bin"}, log)
    try:
        wait_for(lambda: "Ready to accept connections" in log.read_text(), "Redis is ready")
        yield f"redis://127.0.0.1:{free_port}/0"
    finally:
        end(server)


@pytest.fixture
def rabbitmq_url(tmp_path: Path) -> Iterator[str]:
    """A RabbitMQ node of this test's own, with its own name service, so that nothing of it stays behind."""
    command = str(RABBITMQ) if RABBITMQ.is_file() else program("rabbitmq-server")
    port, distribution, names = (free_port() for _ in range(3))
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"keyturn-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_SECONDS": "0",
    }
    log = tmp_path / "rabbitmq.log"
    # Erlang's name service: without one of ours the node would start a daemon that outlives it.
    name_service = start([program("epmd"), "-port", str(names)], environment, log)
    wait_for(lambda: _listens(names), "the name service is ready")
    server = start([command], environment, log)
    try:
        wait_for(lambda: "Starting broker... completed" in log.read_text(), "RabbitMQ is ready")
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        end(server)
        end(name_service)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Installation:
    """A prepared installation whose worker talks to a real broker."""

    environment: dict[str, str]
    folder: Path
    workers: list[subprocess.Popen[bytes]]

    @property
    def database(self) -> Path:
        return self.folder / "installation" / "keyturn.sqlite3"

    def send_tick(self) -> None:
        subprocess.run([sys.executable, "-c", SEND], env=self.environment, check=True)

    def start_worker(self) -> tuple[subprocess.Popen[bytes], Path]:
        """A worker as in production: Celery's own command, processes as its pool, no scheduler."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "keyvault.project.celery",
            "worker",
            "-c",
            "1",
            "-l",
            "INFO",
        ]
        worker = start(command, self.environment, log)
        self.workers.append(worker)
        wait_for(lambda: "ready." in log.read_text(), "the worker is ready")
        return worker, log

    def beats(self) -> int:
        with closing(sqlite3.connect(self.database, timeout=DEADLINE)) as database:
            return int(
                database.execute("select count(*) from keyvault_heartbeat where name = 'beat'").fetchone()[0]
            )


@pytest.fixture
def install(bare_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Installation]]:
    made: list[Installation] = []

    def build(url: str) -> Installation:
        environment = {
            **bare_environment,
            "CELERY_BROKER_URL": url,
            "CELERY_VISIBILITY_TIMEOUT": "6",
            "DJANGO_SETTINGS_MODULE": "keyvault.project.settings",
        }
        command = [sys.executable, "-m", "keyvault.project.children", "prepare"]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        made.append(Installation(environment, tmp_path, []))
        return made[-1]

    yield build
    for installation in made:
        for worker in installation.workers:
            end(worker)


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_a_worker_performs_a_tick_and_a_killed_workers_message_comes_back(
    broker_url: str, install: Callable[[str], Installation]
) -> None:
    installation = install(broker_url)
    assert installation.beats() == 0
    worker, log = installation.start_worker()

    installation.send_tick()
    wait_for(lambda: installation.beats() == 1, "the tick was performed")

    with closing(sqlite3.connect(installation.database, isolation_level=None, timeout=DEADLINE)) as holder:
        holder.execute("delete from keyvault_heartbeat where name = 'beat'")
        holder.execute("begin immediate")
        installation.send_tick()
        wait_for(lambda: log.read_text().count("] received") >= 2, "the second tick was received")
        end(worker)
        holder.execute("rollback")
    assert installation.beats() == 0, "the killed worker has not finished the tick"

    installation.start_worker()
    wait_for(lambda: installation.beats() == 1, "another worker performed the same tick")


def test_the_shipped_redis_settings_do_not_hand_out_a_running_task_again() -> None:
    options = broker_settings("redis://127.0.0.1/0", Path("/data"))["broker_transport_options"]
    longest_provider_call = 20  # seconds, the limit of the egress client
    assert options["visibility_timeout"] >= 10 * longest_provider_call
