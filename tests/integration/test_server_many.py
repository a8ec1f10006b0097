"""Thousands of callers wait at one worker process, as long polls do, and the others do not notice."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvault.project.server import LAST_CALL_SECONDS
from tests.integration.plain_http import Connection, End, Exchange, ask_once
from tests.integration.processes import DEADLINE
from tests.integration.small_server import QUICK, WAIT, SmallServer, small_server

pytestmark = [pytest.mark.once, pytest.mark.serial]

MOST = 3000
OTHER_FILES = 400
MIB = 1024 * 1024


@pytest.fixture
def many() -> Iterator[int]:
    """How many connections this process may have: ``MOST``, or what the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    yield min(MOST, max(soft, allowed) - OTHER_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_wait_at_one_worker(tmp_path: Path, free_port: int, many: int) -> None:
    async def wait() -> tuple[Connection, asyncio.Task[Exchange]]:
        connection = Connection(free_port)
        return connection, asyncio.create_task(connection.ask(WAIT))

    async def scenario(server: SmallServer) -> tuple[list[Exchange], float]:
        (worker,) = server.workers()
        before = worker.memory_info().rss
        waiting = [await wait() for _ in range(many)]
        deadline = time.monotonic() + DEADLINE
        while len(server.begun()) < many:
            assert time.monotonic() < deadline, f"{len(server.begun())} of {many} are waiting"
            assert (await ask_once(free_port, QUICK)).end is End.WHOLE
        grown = worker.memory_info().rss - before
        assert grown < many * 64 * 1024, f"{grown / many / 1024:.0f} KiB for each that waits"
        assert not any(task.done() for _, task in waiting)
        started = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        answers = await asyncio.gather(*(task for _, task in waiting))
        seconds = time.monotonic() - started
        await stopping
        for connection, _ in waiting:
            await connection.close()
        return answers, seconds

    # It takes this process a while to connect and to ask so often; a header may take as long.
    with small_server(tmp_path, free_port, header_seconds=DEADLINE) as server:
        answers, seconds = asyncio.run(scenario(server))
        assert {answer.end for answer in answers} == {End.WHOLE}
        assert seconds < LAST_CALL_SECONDS + 10


def test_beyond_its_bound_a_worker_lets_callers_wait_and_refuses_none(tmp_path: Path, free_port: int) -> None:
    async def scenario() -> list[Exchange]:
        holders = [Connection(free_port) for _ in range(5)]
        for connection in holders:
            assert (await connection.ask(QUICK)).end is End.WHOLE
        # Five are kept open and idle, and five is the bound: the sixth waits until one has had its time.
        answers = await asyncio.gather(*(ask_once(free_port, QUICK) for _ in range(10)))
        for connection in holders:
            await connection.close()
        return answers

    # Long enough for a busy machine to open the five and to ask.
    with small_server(tmp_path, free_port, connections=5, header_seconds=5.0):
        assert [answer.end for answer in asyncio.run(scenario())] == [End.WHOLE] * 10
