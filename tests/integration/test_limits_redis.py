"""Rate limits of several hosts, counted in a real Redis that is killed, paused and started again"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from keyvault.limits.cells import Cells
from keyvault.limits.limiter import Limiter
from keyvault.limits.redis_counter import RedisCounter
from tests.integration.limit_hammer import NOW, PATIENT, TOGETHER, read_numbers
from tests.integration.processes import DEADLINE, wait_for
from tests.integration.redis_server import RedisServer

pytestmark = [pytest.mark.once, pytest.mark.serial]

ROOT = Path(__file__).resolve().parents[2]
MINUTE = int(NOW.timestamp()) // 60


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path, free_port)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    """Our own eyes on the server."""
    with Redis.from_url(server.url, protocol=2) as client:
        yield client


@pytest.fixture
def host(tmp_path: Path, server: RedisServer) -> Iterator[Limiter]:
    """The limiter of one host."""
    made = Limiter(Cells(tmp_path / "limits.cells", 64), RedisCounter(server.url, PATIENT))
    yield made
    made.close()


@pytest.fixture
def mine() -> bytes:
    return uuid.uuid4().bytes


@asynccontextmanager
async def counter_at(url: str) -> AsyncIterator[RedisCounter]:
    counter = RedisCounter(url, PATIENT)
    try:
        yield counter
    finally:
        await counter.aclose()
        counter.close()


def script_calls(redis: Redis) -> int:
    stats: Any = redis.info("commandstats")
    return int(stats.get("cmdstat_eval", {"calls": 0})["calls"])


class TestCounting:
    def test_two_processes_get_every_number_once(
        self, server: RedisServer, mine: bytes, tmp_path: Path
    ) -> None:
        """Each hits from three threads first, then from an event loop; each has cells of its own."""
        threads, hits = 3, 10 * TOGETHER
        children = []
        for n in range(2):
            arguments = [str(tmp_path / f"{n}.cells"), server.url, mine.hex(), str(threads), str(hits)]
            command = [sys.executable, "-m", "tests.integration.limit_hammer", *arguments]
            children.append(
                subprocess.Popen([*command, str(tmp_path / f"numbers-{n}")], cwd=ROOT, stdin=subprocess.PIPE)
            )
        for child in children:
            child.communicate(b"\n", timeout=DEADLINE)
        assert [child.returncode for child in children] == [0, 0]
        parts = [read_numbers(tmp_path / f"numbers-{n}") for n in range(2)]
        assert [len(part) for part in parts] == [(threads + 1) * hits] * 2
        assert sorted(parts[0] + parts[1]) == list(range(1, 2 * (threads + 1) * hits + 1))

    def test_hits_of_one_turn_are_one_command_and_get_numbers_of_their_own(
        self, server: RedisServer, redis: Redis
    ) -> None:
        many = [uuid.uuid4().bytes for _ in range(3)]

        async def hits() -> list[int | None]:
            async with counter_at(server.url) as counter:
                return await asyncio.gather(*(counter.hit_async(s, MINUTE) for s in many * 4))

        assert asyncio.run(hits()) == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
        assert script_calls(redis) == 1

    def test_minutes_are_counted_apart_and_forgotten(
        self, server: RedisServer, redis: Redis, mine: bytes
    ) -> None:
        async def hits() -> list[int | None]:
            async with counter_at(server.url) as counter:
                minutes = (MINUTE, MINUTE, MINUTE + 1, MINUTE)
                return [await counter.hit_async(mine, minute) for minute in minutes]

        assert asyncio.run(hits()) == [1, 2, 1, 3]
        kept: Any = redis.keys("keyturn:rate:*")
        assert len(kept) == 2
        assert all(0 < int(str(redis.ttl(key))) <= 120 for key in kept)

    def test_a_caller_who_goes_away_disturbs_nobody(self, server: RedisServer, mine: bytes) -> None:
        async def hits() -> list[int | None]:
            async with counter_at(server.url) as counter:
                gone, stays = (asyncio.create_task(counter.hit_async(mine, MINUTE)) for _ in range(2))
                await asyncio.sleep(0)  # both wait now, and nothing has been sent
                gone.cancel()
                return [await stays, await counter.hit_async(mine, MINUTE)]

        assert asyncio.run(hits()) == [2, 3]

    def test_valkey_addresses_are_known(self, server: RedisServer, mine: bytes) -> None:
        counter = RedisCounter(f"valkey://{server.address}", PATIENT)
        assert [counter.hit(mine, MINUTE) for _ in range(2)] == [1, 2]
        counter.close()

    def test_hosts_share_one_count(
        self, host: Limiter, server: RedisServer, mine: bytes, tmp_path: Path
    ) -> None:
        other = Limiter(Cells(tmp_path / "other.cells", 64), RedisCounter(server.url, PATIENT))
        assert not host.local
        assert [limiter.hit(mine, NOW) for limiter in (host, other) * 2] == [1, 2, 3, 4]
        other.close()

    def test_a_closed_counter_leaves_no_connection(
        self, server: RedisServer, redis: Redis, mine: bytes
    ) -> None:
        async def hits(counter: RedisCounter) -> None:
            await counter.hit_async(mine, MINUTE)
            await counter.aclose()

        counter = RedisCounter(server.url, PATIENT)
        counter.hit(mine, MINUTE)
        asyncio.run(hits(counter))
        wait_for(lambda: len(redis.client_list()) == 2, "the one of the event loop is gone")
        counter.close()
        wait_for(lambda: len(redis.client_list()) == 1, "only the test's own connection is left")


class TestAway:
    def test_a_killed_server_is_replaced_by_the_count_of_this_host(
        self, host: Limiter, server: RedisServer, mine: bytes
    ) -> None:
        assert [host.hit(mine, NOW) for _ in range(3)] == [1, 2, 3]
        server.kill()
        with capture_logs() as logs:
            assert [host.hit(mine, NOW) for _ in range(50)] == list(range(4, 54))
        assert [entry["event"] for entry in logs] == ["limits.redis_away"]

        server.start()
        fresh = uuid.uuid4().bytes
        with capture_logs() as logs:
            # It has forgotten everything, so it says 1 when it is asked again.
            wait_for(lambda: host.hit(mine, NOW) == 1, "Redis counts again")
        assert [entry["event"] for entry in logs] == ["limits.redis_back"]
        assert [host.hit(fresh, NOW) for _ in range(2)] == [1, 2]

    def test_an_event_loop_goes_on_while_the_server_is_killed_and_comes_back(
        self, host: Limiter, server: RedisServer, mine: bytes
    ) -> None:
        async def hits(count: int) -> list[int]:
            return await asyncio.gather(*(host.hit_async(mine, NOW) for _ in range(count)))

        async def run() -> None:
            assert await hits(10) == list(range(1, 11))
            killing = asyncio.create_task(asyncio.to_thread(server.kill))
            told = []
            while not killing.done():
                told += await hits(10)
            told += await hits(10)
            assert sorted(told) == list(range(11, 11 + len(told)))
            await asyncio.to_thread(server.start)
            deadline = time.monotonic() + DEADLINE
            while await host.hit_async(mine, NOW) != 1:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert await hits(3) == [2, 3, 4]
            await host.aclose()

        asyncio.run(run())

    def test_a_late_answer_is_not_taken_for_another(
        self, server: RedisServer, redis: Redis, mine: bytes, tmp_path: Path
    ) -> None:
        # Seconds: more than Redis needs when it answers, less than it is kept from answering.
        host = Limiter(Cells(tmp_path / "limits.cells", 64), RedisCounter(server.url, 4.0))
        assert [host.hit(mine, NOW) for _ in range(5)] == [1, 2, 3, 4, 5]
        redis.client_pause(600_000, all=False)  # only what writes, so that we can end it
        with capture_logs() as logs:
            assert host.hit(mine, NOW) == 6
        assert [(entry["event"], entry["error"]) for entry in logs] == [("limits.redis_away", "TimeoutError")]
        redis.client_unpause()
        back, fresh = uuid.uuid4().bytes, uuid.uuid4().bytes

        def counted() -> bool:
            host.hit(back, NOW)
            return bool(redis.exists(f"keyturn:rate:{MINUTE}:{back.hex()}"))

        wait_for(counted, "Redis counts again")
        assert [host.hit(fresh, NOW) for _ in range(2)] == [1, 2]
        host.close()

    def test_a_hit_whose_answer_is_lost_is_not_counted_again(
        self, server: RedisServer, redis: Redis, mine: bytes
    ) -> None:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Passes the command on, waits for the answer and hangs up."""
            there, here = await asyncio.open_connection("127.0.0.1", server.port)
            here.write(await reader.read(65_536))
            assert await there.read(65_536) == b"$1\r\n1\r\n"
            here.close()
            writer.close()

        async def hit() -> int | None:
            relay = await asyncio.start_server(swallow, "127.0.0.1", 0)
            port = relay.sockets[0].getsockname()[1]
            async with relay, counter_at(f"redis://127.0.0.1:{port}/0") as counter:
                return await counter.hit_async(mine, MINUTE)

        assert asyncio.run(hit()) is None
        assert redis.get(f"keyturn:rate:{MINUTE}:{mine.hex()}") == b"1"

    def test_nobody_waits_for_a_server_that_never_answers(self, mine: bytes, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
            limiter = Limiter(Cells(tmp_path / "limits.cells", 64), RedisCounter(url))

            async def hits() -> list[int]:
                found = [await limiter.hit_async(mine, NOW) for _ in range(200)]
                return [*found, *(limiter.hit(mine, NOW) for _ in range(200))]

            began = time.monotonic()
            assert asyncio.run(hits()) == list(range(1, 401))
            # 40 s if each of them waited.
            assert time.monotonic() - began < 20
            limiter.close()

    def test_a_refusing_server_is_logged_without_its_password(self, server: RedisServer, mine: bytes) -> None:
        counter = RedisCounter(f"redis://:hidden-word@{server.address}")
        with capture_logs() as logs:
            assert [counter.hit(mine, MINUTE) for _ in range(3)] == [None] * 3
        assert [entry["event"] for entry in logs] == ["limits.redis_away"]
        assert "hidden-word" not in str(logs)
        counter.close()
