"""Callers that are slow, silent or excessive: each gets an answer or a closed door; others do not wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.plain_http import Connection, End, Exchange, ask_once, request
from tests.integration.small_server import LARGE, QUICK, SmallServer, small_server

pytestmark = [pytest.mark.once, pytest.mark.serial]

HEADER, BODY, STALLED = 1.5, 1.0, 2  # seconds
LATE = 20.0  # seconds that a busy test machine may be late

HEAD = f"GET {QUICK} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode()
POST = f"POST {QUICK} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-request-id: unfinished\r\n".encode()


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, free_port: int) -> Iterator[SmallServer]:
    """A test says which limit is a short one. With all of them short, a test that has to wait for the
    processor would be a slow caller itself."""
    with small_server(tmp_path, free_port, **getattr(request, "param", {})) as server:
        yield server


def short(**limits: float) -> pytest.MarkDecorator:
    (name,) = limits
    return pytest.mark.parametrize("server", [limits], ids=[name], indirect=True)


async def _answered(port: int) -> Connection:
    """A connection on which an answer came; another one where it was us who were late with the header."""
    while True:
        connection, started = Connection(port), time.monotonic()
        answer = await connection.ask(QUICK)
        if answer.end is End.WHOLE:
            return connection
        assert time.monotonic() - started > HEADER * 0.9, answer


async def _drip(connection: Connection, first: bytes, drop: bytes) -> tuple[bytes, float]:
    """Send ``first``, then a ``drop`` now and then, until the server ends it: what it said, and when."""
    started = time.monotonic()
    await connection.open()
    with suppress(ConnectionError):  # it may be ended at this very moment
        await connection.send(first)
    ended = asyncio.create_task(connection.ended())
    while not (await asyncio.wait({ended}, timeout=0.2))[0]:
        if drop:
            with suppress(ConnectionError):
                await connection.send(drop)
    return await ended, time.monotonic() - started


@short(header_seconds=HEADER)
@pytest.mark.parametrize(
    ("first", "drop"),
    [(b"", b""), (HEAD, b""), (HEAD, b"x-more: of this\r\n"), (b"GET /v1/keys/qu", b"i")],
    ids=["silence", "a header without an end", "a header line at a time", "a path by letters"],
)
def test_a_header_has_its_time(server: SmallServer, first: bytes, drop: bytes) -> None:
    async def scenario() -> tuple[bytes, float]:
        slow = asyncio.create_task(_drip(Connection(server.port), first, drop))
        while not slow.done():
            await (await _answered(server.port)).close()
        return await slow

    said, seconds = asyncio.run(scenario())
    assert said == b""
    assert HEADER * 0.9 < seconds < HEADER + LATE


@short(body_seconds=BODY)
@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (POST + b"content-length: 1000\r\n\r\n", b"a"),
        (POST + b"content-length: 1000\r\n\r\n", b""),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"POST /page HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n", b""),
    ],
    ids=["a byte at a time", "no byte", "a chunk at a time", "for a page"],
)
def test_a_body_has_its_time(server: SmallServer, first: bytes, drop: bytes) -> None:
    async def scenario() -> tuple[bytes, float]:
        # More than there are threads for pages.
        slow = [asyncio.create_task(_drip(Connection(server.port), first, drop)) for _ in range(3)]
        while not all(task.done() for task in slow):
            assert (await ask_once(server.port, "/page")).end is End.WHOLE
        return await slow[0]

    said, seconds = asyncio.run(scenario())
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["error"]["code"] == "validation_error"
    assert json.loads(body)["error"]["message"] == "The body did not arrive in time."
    assert BODY * 0.9 < seconds < BODY + LATE
    assert "unfinished" not in server.begun()


def _one(data: bytes) -> Callable[[int], Coroutine[Any, Any, Exchange]]:
    async def exchange(port: int) -> Exchange:
        connection = Connection(port)
        await connection.open()
        await connection.send(data)
        answer = await connection.answer()
        await connection.close()
        return answer

    return exchange


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"x-large: " + b"a" * 100 * 1024 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"x-%d: a\r\n" % number for number in range(200)) + b"\r\n", 431),
        (HEAD + b"".join(b"x-%d: a\r\n" % number for number in range(50)) + b"\r\n", 200),
        (request(f"{QUICK}?{'a' * 20 * 1024}"), 200),
        (request(f"{QUICK}?{'a' * 80 * 1024}"), 431),
        (request("/page", method="POST", body=b"a" * 64 * 1024), 200),
        (request("/page", method="POST", body=b"a" * (64 * 1024 + 1)), 413),
        (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (HEAD + b"x-a: b\r\n folded\r\n\r\n", 400),
        (b"not http at all\r\n\r\n", 400),
    ],
    ids=[
        "a header of 100 KiB",
        "200 header lines",
        "50 header lines",
        "a request line of 20 KiB",
        "a request line of 80 KiB",
        "a body of 64 KiB",
        "a body over 64 KiB",
        "two lengths",
        "a folded line",
        "something else",
    ],
)
def test_sizes_and_forms(server: SmallServer, data: bytes, status: int) -> None:
    answer = asyncio.run(_one(data)(server.port))
    assert (answer.end, answer.status) == (End.WHOLE, status)
    assert asyncio.run(ask_once(server.port, QUICK)).end is End.WHOLE


def test_a_body_that_breaks_off_is_not_acted_upon(server: SmallServer) -> None:
    async def scenario() -> None:
        connection = Connection(server.port)
        await connection.open()
        await connection.send(POST + b"content-length: 9\r\n\r\n12")
        await connection.close()
        await ask_once(server.port, QUICK, request_id="afterwards")

    asyncio.run(scenario())
    assert "afterwards" in server.begun()
    assert "unfinished" not in server.begun()


@short(header_seconds=HEADER)
def test_an_idle_connection_is_kept_for_a_while(server: SmallServer) -> None:
    async def scenario() -> float:
        started = time.monotonic()  # before it, for nobody knows how late its answer is seen here
        connection = await _answered(server.port)
        assert await connection.ended() == b""
        return time.monotonic() - started

    assert HEADER * 0.9 < asyncio.run(scenario()) < HEADER + LATE


@short(stalled_seconds=STALLED)
@pytest.mark.parametrize("path", [f"{LARGE}?30000000", "/page?30000000"])
def test_an_answer_that_is_not_taken_is_given_up(server: SmallServer, path: str) -> None:
    """The caller does not read. The thread that wrote a page is free at once, the connection soon."""

    async def scenario() -> float:
        stalled = [Connection(server.port) for _ in range(4)]
        started = time.monotonic()
        for connection in stalled:
            await connection.open(read_ahead=1024)
            await connection.send(request(path))
        for _ in range(10):
            assert (await ask_once(server.port, "/page")).end is End.WHOLE
        (worker,) = server.workers()
        while len(worker.net_connections("tcp")) > 1:
            assert time.monotonic() - started < STALLED + LATE
            await ask_once(server.port, QUICK)
        for connection in stalled:
            await connection.close()
        return time.monotonic() - started

    assert asyncio.run(scenario()) > STALLED * 0.9
