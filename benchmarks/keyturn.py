"""Keyturn as ``keyturn serve`` runs it: installations with many keys, their web servers, cold starts."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.indexes import without_indexes
from benchmarks.postgres import PostgreSQL
from benchmarks.processes import Failed, Processes, free_port, tree, wait_for

ENVIRONMENT = "dev"
REFUSED = 401  # the answer to a consumer without a token
_OURS = ("DATABASE_URL", "CELERY_BROKER_URL", "ALLOWED_HOSTS", "CACHE_URL", "DJANGO_SETTINGS_MODULE")


def bare_environment(data: Path, **more: str) -> dict[str, str]:
    """The environment of a Keyturn of ours: nothing of the developer's own installation is in it."""
    kept = {
        name: content
        for name, content in os.environ.items()
        if name not in _OURS and not name.startswith("KEYTURN_")
    }
    return {**kept, "KEYTURN_ENV_FILE": os.devnull, "KEYTURN_DATA": str(data), **more}


def ask(
    port: int, method: str, path: str, *, token: str = "", body: Mapping[str, Any] | None = None
) -> tuple[int, Any]:
    """One request of its own to a server of ours: status and JSON document."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": token} if token else {})
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        with connection.getresponse() as response:
            text = response.read()
        return response.status, json.loads(text)
    except json.JSONDecodeError as error:
        raise Failed(f"{method} {path}: the answer is not JSON") from error
    finally:
        connection.close()


def answers(port: int, path: str, status: int) -> bool:
    """Whether this path is answered with this status; not while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status == status
    except OSError:
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Size:
    """How many keys an installation has, and whose. Every ``shifting_every``-th is about to be replaced."""

    keys: int
    per_consumer: int
    shifting_every: int = 0

    @property
    def consumers(self) -> int:
        return -(-self.keys // self.per_consumer)


class Installation:
    """A database and a data directory of its own, and later a web server."""

    def __init__(
        self, processes: Processes, postgres: PostgreSQL, folder: Path, name: str, size: Size
    ) -> None:
        self.name = name
        self.size = size
        self.port = free_port()
        self._processes = processes
        self._postgres = postgres
        self._data = folder / name
        self.environment = bare_environment(
            self._data,
            DATABASE_URL=postgres.create_database(name),
            KEYTURN_LISTEN_HOST="127.0.0.1",
            KEYTURN_LISTEN_PORT=str(self.port),
            KEYTURN_DEFAULT_URL=f"http://127.0.0.1:{self.port}",
            KEYTURN_WORKERS="1",
        )

    def module(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", name, *arguments]

    def prepare(self) -> None:
        """Set up and seed. Uses every core; the server must not run yet."""
        run, size = self._processes, self.size
        run.run(f"{self.name}-prepare", self.module("keyvault.project.children", "prepare"), self.environment)
        callers = self.module("benchmarks.seeding", "callers", str(size.consumers))
        run.run(f"{self.name}-callers", callers, self.environment)
        with without_indexes(self._postgres.url(self.name), _LARGE_TABLES):
            run.run_together(self._seeders(), self.environment)
            self._postgres.execute(self.name, _SCHEDULES)
        self._postgres.execute(self.name, "VACUUM (ANALYZE)")

    def _seeders(self) -> dict[str, list[str]]:
        """One process per core, each with its share of the keys."""
        size, parts = self.size, len(os.sched_getaffinity(0))
        edges = [size.keys * part // parts for part in range(parts + 1)]
        options = ["--per-consumer", str(size.per_consumer), "--shifting-every", str(size.shifting_every)]
        return {
            f"{self.name}-keys-{first}": self.module(
                "benchmarks.seeding", "keys", str(first), str(beyond), *options
            )
            for first, beyond in pairwise(edges)
        }

    def serve(self) -> None:
        """Start the web server, as the supervisor of ``keyturn serve`` does."""
        name = self.server_name
        self._processes.start(name, self.module("keyvault.project.children", "web"), self.environment)
        wait_for(self._answers, f"{name} answers")

    def _answers(self) -> bool:
        self._processes.check(self.server_name)
        return answers(self.port, path_of(0), REFUSED)

    @property
    def server_name(self) -> str:
        return f"keyturn-{self.name}"

    @property
    def server_pid(self) -> int:
        return self._processes.pid(self.server_name)

    @property
    def worker(self) -> Any:
        """The process that answers: the one child of the web server with the most memory."""
        below = tree(self.server_pid)[1:]
        if not below:
            raise Failed(f"{self.server_name} has no worker")
        return max(below, key=lambda process: process.memory_info().rss)

    @property
    def tokens(self) -> list[str]:
        """The tokens of consumers 0..., in this order."""
        texts: list[str] = json.loads(self.file("bench-tokens.json").read_text())
        return texts

    def file(self, name: str) -> Path:
        """A file in the data directory."""
        return self._data / name

    def deliver(self, number: int) -> dict[str, Any]:
        """The document of one delivery. Raises ``Failed`` for anything but 200."""
        token = self.tokens[number // self.size.per_consumer]
        status, document = ask(self.port, "GET", path_of(number), token=token)
        if status != 200:
            raise Failed(f"GET {path_of(number)}: {status} {document}")
        return dict(document)

    def records(self) -> int:
        """How many answers are recorded."""
        return self._postgres.number(self.name, "SELECT count(*) FROM keyvault_delivery")


def path_of(number: int | str) -> str:
    return f"/v1/keys/bench-{number}/{ENVIRONMENT}/"


_LARGE_TABLES = (
    "keyvault_service",
    "keyvault_key",
    "keyvault_keyversion",
    "keyvault_grant",
    "rotation_keyschedule",
)
# Every key has its schedule, far from due: that is what an idle tick looks through.
_SCHEDULES = """
INSERT INTO rotation_keyschedule
       (id, key_id, policy_id, next_rotation_at, trigger, reason, held_code, held_reason)
SELECT gen_random_uuid(), key.id, policy.id, now() + interval '30 days' + random() * interval '60 days',
       'schedule', '', '', ''
  FROM keyvault_key AS key, rotation_rotationpolicy AS policy WHERE policy.slug = 'standard'
"""


def cold_start(processes: Processes, data: Path) -> float:
    """Seconds from starting ``keyturn serve`` on this directory to its first answer to a consumer."""
    port = free_port()
    command = [sys.executable, "-m", "keyvault.project.cli", "serve", "--port", str(port)]
    started = time.perf_counter()
    name = f"serve-{port}"
    processes.start(name, command, bare_environment(data))

    def answered() -> bool:
        processes.check(name)
        return answers(port, path_of(0), REFUSED)

    wait_for(answered, "keyturn serve answers")
    took = time.perf_counter() - started
    processes.end(name)
    return took
