"""The web server is told to stop, or to replace a worker, while it is busy: what its callers see.

With HTTP/1.1 a server may close a connection that looks idle at the moment when a request is on its way. So
what can be promised, and is tested here, is this. A request that was begun gets its whole answer. A request
that was not begun gets no byte of an answer, so that its caller may safely ask again. No answer is cut off.
And a caller in steady use of its connection never meets the first case: it is told with an answer to close.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from keyvault.project.server import KILL_AFTER, LAST_CALL_SECONDS
from tests.integration.plain_http import Connection, End, Exchange, ask_once
from tests.integration.processes import alive, wait_for
from tests.integration.small_server import GROW, QUICK, SLOW, WAIT, Load, SmallServer, small_server

pytestmark = [pytest.mark.once, pytest.mark.serial]


def _steady(loads: list[Load]) -> list[Exchange]:
    """What came of the requests of those who use their connection all the time. Half of the last call is left
    for a server that has to wait for the processor before it sees the request."""
    return [
        asked.exchange
        for load in loads
        for asked in load.asked
        if asked.idle is not None and asked.idle < LAST_CALL_SECONDS / 2
    ]


def _check(server: SmallServer, loads: list[Load]) -> None:
    """Nothing was begun without a whole answer, and nothing answered in part."""
    whole = set().union(*(load.ids(End.WHOLE) for load in loads))
    begun = server.begun()
    assert len(begun) == len(set(begun)), "nothing was done twice"
    assert [load.ids(End.TRUNCATED) for load in loads] == [set()] * len(loads)
    assert set(begun) & set().union(*(load.ids(End.NOTHING) for load in loads)) == set()
    assert whole == {name for name in begun if name.startswith("load-")}


def test_a_busy_server_that_is_told_to_stop_finishes_what_it_began(tmp_path: Path, free_port: int) -> None:
    async def scenario(server: SmallServer) -> tuple[list[Load], list[Exchange], float]:
        loads = [Load(free_port, QUICK), Load(free_port, f"{SLOW}?300"), Load(free_port, f"{SLOW}?2500")]
        running = [asyncio.create_task(load.run(30)) for load in loads]
        waiting = [asyncio.create_task(ask_once(free_port, WAIT)) for _ in range(50)]
        await loads[0].has_asked(400)
        seconds = await asyncio.to_thread(server.stop)
        answers = await asyncio.gather(*waiting)
        await asyncio.gather(*running)
        return loads, answers, seconds

    with small_server(tmp_path, free_port, workers=2) as server:
        loads, answers, seconds = asyncio.run(scenario(server))
        _check(server, loads)
        assert [answer.end for answer in answers] == [End.WHOLE] * 50, "who only waits is answered"
        steady = _steady(loads)
        assert len(steady) > 200
        assert {exchange.end for exchange in steady} == {End.WHOLE}
        assert LAST_CALL_SECONDS <= seconds < KILL_AFTER / 2


def test_an_idle_connection_is_closed_without_a_byte(tmp_path: Path, free_port: int) -> None:
    async def scenario(server: SmallServer) -> bytes:
        connection = Connection(free_port)
        assert (await connection.ask(QUICK)).end is End.WHOLE
        ended = asyncio.create_task(connection.ended())
        await asyncio.to_thread(server.stop)
        return await ended

    with small_server(tmp_path, free_port) as server:
        assert asyncio.run(scenario(server)) == b""


def test_a_worker_that_grew_too_large_is_replaced_without_a_failed_request(
    tmp_path: Path, free_port: int
) -> None:
    async def scenario(server: SmallServer) -> list[Load]:
        loads = [Load(free_port, QUICK), Load(free_port, f"{SLOW}?200")]
        running = [asyncio.create_task(load.run(20)) for load in loads]
        await loads[0].has_asked(200)
        before = server.workers()
        assert (await ask_once(free_port, f"{GROW}?200")).end is End.WHOLE
        await asyncio.to_thread(wait_for, lambda: len(before - server.workers()) == 1, "one worker ended")
        await asyncio.to_thread(wait_for, lambda: len(server.workers() - before) == 1, "another came")
        for load in loads:
            load.enough.set()
        await asyncio.gather(*running)
        assert len(server.workers() - before) == 1, "another took its place"
        return loads

    with small_server(tmp_path, free_port, workers=2, max_rss=200, rss_interval=1) as server:
        loads = asyncio.run(scenario(server))
        _check(server, loads)
        steady = _steady(loads)
        assert len(steady) > 100
        assert {exchange.end for exchange in steady} == {End.WHOLE}
        assert "tcp_migrate_req" not in server.log.read_text()


def test_a_killed_worker_leaves_its_queue_to_its_successor(tmp_path: Path, free_port: int) -> None:
    async def scenario(server: SmallServer) -> list[Exchange]:
        (worker,) = server.workers()
        worker.kill()
        await asyncio.to_thread(wait_for, lambda: not alive([worker]), "it takes no connection any more")
        # The kernel takes these while nobody accepts.
        asked = [asyncio.create_task(ask_once(free_port, QUICK)) for _ in range(20)]
        answers = await asyncio.gather(*asked)
        assert worker not in server.workers()
        return answers

    with small_server(tmp_path, free_port) as server:
        answers = asyncio.run(scenario(server))
        assert [answer.end for answer in answers] == [End.WHOLE] * 20
