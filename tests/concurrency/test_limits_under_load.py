"""A rate limit is exact when 400 requests of one token come at the same moment, wherever they land."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyvault import clock
from keyvault.models import Delivery
from tests.api.delivery.world import World, build
from tests.installations import Installation, Web, web
from tests.integration.plain_http import Connection, End, Exchange
from tests.integration.redis_server import RedisServer

pytestmark = pytest.mark.serial

TOGETHER = 400
ATTEMPTS = 3
FORGED = (
    "x-forwarded-for: 203.0.113.{}",
    "forwarded: for=198.51.100.{};proto=https",
    "x-real-ip: 192.0.2.{}",
)


def at_once(servers: Sequence[Web], world: World, token: str, *, forged: bool = False) -> list[Exchange]:
    """One request on each of 400 connections, sent when all of them are open."""

    async def burst() -> list[Exchange]:
        connections = [Connection(servers[n % len(servers)].port) for n in range(TOGETHER)]
        assert all(await asyncio.gather(*(connection.open() for connection in connections)))
        answers = await asyncio.gather(*(ask(connection) for connection in connections))
        await asyncio.gather(*(connection.close() for connection in connections))
        return list(answers)

    async def ask(connection: Connection) -> Exchange:
        more = [line.format(secrets.randbelow(254) + 1) for line in FORGED] if forged else []
        return await connection.ask(world.path, headers=[f"x-api-key: {token}", *more])

    return asyncio.run(burst())


def within_a_minute(
    servers: Sequence[Web], world: World, limit: int, *, forged: bool = False
) -> tuple[list[Exchange], int]:
    """The answers of a burst that no full minute divides, and how many of them were recorded."""
    for _ in range(ATTEMPTS):
        row, token = world.new_token(rate=limit)
        before = clock.now().minute
        answers = at_once(servers, world, token, forged=forged)
        if clock.now().minute == before:
            return answers, Delivery.objects.filter(token=row).count()
    raise AssertionError("a burst takes longer than a minute")


def check(answers: Sequence[Exchange], recorded: int, limit: int) -> None:
    passed = min(limit, TOGETHER)
    assert {answer.end for answer in answers} == {End.WHOLE}
    assert Counter(answer.status for answer in answers) == Counter({200: passed, 429: TOGETHER - passed})
    assert recorded == passed
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {str(limit)}
    left = sorted(int(answer.headers["ratelimit-remaining"]) for answer in answers if answer.status == 200)
    assert left == list(range(limit - passed, limit)), "every number is given out once"
    for answer in answers:
        assert 1 <= int(answer.headers["ratelimit-reset"]) <= 60
        if answer.status == 429:
            assert answer.headers["retry-after"] == answer.headers["ratelimit-reset"]
            assert answer.headers["ratelimit-remaining"] == "0"
        else:
            assert "retry-after" not in answer.headers


@pytest.mark.parametrize("limit", [1, 100, 399, 400, 1000])
def test_exactly_as_many_pass_as_may(installation: Installation, server: Web, limit: int) -> None:
    world = build(server.server)
    check(*within_a_minute([server], world, limit), limit)


def test_what_a_caller_claims_about_itself_changes_nothing(installation: Installation, server: Web) -> None:
    world = build(server.server)
    check(*within_a_minute([server], world, 100, forged=True), 100)


@contextmanager
def hosts(installation: Installation, folder: Path, redis: RedisServer) -> Iterator[list[Web]]:
    """Two servers that share the database and Redis, and no memory."""
    settings = {"KEYTURN_RATE_LIMIT_URL": redis.url}
    (folder / "other").mkdir(mode=0o700)
    with (
        web(installation, workers=1, settings=settings) as one,
        web(installation, workers=1, settings=settings, data=folder / "other") as two,
    ):
        yield [one, two]


def test_hosts_that_share_a_redis_count_together(
    installation: Installation, tmp_path: Path, free_port: int
) -> None:
    redis = RedisServer(tmp_path, free_port)
    redis.start()
    try:
        with hosts(installation, tmp_path, redis) as servers:
            world = build(servers[0].server)
            for limit in (1, 100, 399):
                check(*within_a_minute(servers, world, limit), limit)
    finally:
        redis.kill()


def test_without_one_each_host_counts_for_itself(
    installation: Installation, server: Web, tmp_path: Path
) -> None:
    """So that the test above could fail."""
    (tmp_path / "other").mkdir(mode=0o700)
    with web(installation, workers=1, data=tmp_path / "other") as other:
        world = build(other.server)
        answers, recorded = within_a_minute([server, other], world, 100)
    assert Counter(answer.status for answer in answers) == {200: 200, 429: 200}
    assert recorded == 200
