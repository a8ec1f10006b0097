"""Starts ``server_program`` for a test, and keeps many connections to it busy."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.integration.plain_http import Connection, End, Exchange, ask_once
from tests.integration.processes import DEADLINE, alive, descendants, end, start, wait_for

QUICK = "/v1/keys/quick/dev/"
SLOW = "/v1/keys/slow/dev/"
WAIT = "/v1/keys/wait/dev/"
LARGE = "/v1/keys/large/dev/"
GROW = "/v1/keys/grow/dev/"


@dataclass
class SmallServer:
    port: int
    process: subprocess.Popen[bytes]
    journal: Path
    log: Path

    def workers(self) -> set[psutil.Process]:
        return set(alive(descendants(self.process.pid)))

    def begun(self) -> list[str]:
        """The ids of the requests that were begun."""
        return [line.split()[1] for line in self.journal.read_text().splitlines()]

    def stop(self) -> float:
        """SIGTERM, and wait. Returns the seconds that it took; fails where the server did not end well."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        wait_for(lambda: self.process.poll() is not None, "the server ended")
        assert self.process.returncode == 0, self.log.read_text()
        assert "Killing" not in self.log.read_text(), "every worker ended by itself"
        return time.monotonic() - started


@contextmanager
def small_server(folder: Path, port: int, **plan: Any) -> Iterator[SmallServer]:
    journal, log = folder / "journal", folder / "server.log"
    journal.touch()
    plan = {"port": port, "journal": str(journal), **plan}
    command = [sys.executable, "-m", "tests.integration.server_program", json.dumps(plan)]
    process = start(command, os.environ, log)
    server = SmallServer(port, process, journal, log)
    try:
        wait_for(
            lambda: process.poll() is not None or asyncio.run(ask_once(port, QUICK)).end is End.WHOLE,
            "an answer",
        )
        assert process.poll() is None, log.read_text()
        wait_for(lambda: len(server.workers()) == plan.get("workers", 1), "all workers")
        yield server
    finally:
        end(process)


@dataclass
class Asked:
    """One request of the load. ``idle``: seconds since the last one here was sent, so that it does not matter
    how late its answer was seen here; None: the first one here, or the server said that it would close."""

    request_id: str
    exchange: Exchange
    idle: float | None


@dataclass
class Load:
    """Connections that ask one request after the other until nobody listens, or ``enough`` is set."""

    port: int
    path: str
    asked: list[Asked] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def has_asked(self, count: int) -> None:
        """Wait until so many requests were made."""
        deadline = time.monotonic() + DEADLINE
        while len(self.asked) < count:
            assert time.monotonic() < deadline, f"{len(self.asked)} of {count} requests"
            await ask_once(self.port, self.path)

    async def run(self, connections: int) -> None:
        await asyncio.gather(*(self._connection() for _ in range(connections)))

    async def _connection(self) -> None:
        connection = Connection(self.port)
        before: float | None = None
        while not self.enough.is_set():
            request_id = f"load-{self.name}-{next(self._numbers)}"
            started = time.monotonic()
            idle = None if before is None else started - before
            exchange = await connection.ask(self.path, request_id=request_id)
            if exchange.end is End.REFUSED:
                break
            self.asked.append(Asked(request_id, exchange, idle))
            whole = exchange.end is End.WHOLE
            before = started if whole and not exchange.last else None
        await connection.close()

    def ids(self, end: End) -> set[str]:
        return {asked.request_id for asked in self.asked if asked.exchange.end is end}
