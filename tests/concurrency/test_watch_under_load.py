"""1,200 callers wait for a change of one key at one worker process: all are told at once, and cheaply."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import psutil
import pytest
from django.db import connection

from keyvault import clock
from keyvault.models import Delivery
from tests.api.delivery.world import World, build
from tests.concurrency.statements import Asked, Statements
from tests.conftest import Tell
from tests.installations import Installation, Web, web
from tests.integration.plain_http import Connection, End, Exchange
from tests.integration.processes import wait_for

pytestmark = pytest.mark.serial

T = TypeVar("T")

WAITERS = 1200
TIMEOUT = 60  # of each watch, in seconds
# Seconds until the last one is answered: far less than a timeout would take. What it costs to tell them all
# is counted; how long that takes is a matter of the machine, and of what else it does.
WITHIN = 30.0


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """This process holds the other ends of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = WAITERS + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(needed, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


ATTEMPTS = 3  # to be within one minute
# For all of them together.
FEW = Asked(looks=4, batches=20)


async def apart(work: Callable[[], T]) -> T:
    """Run it in a thread: this process's own questions to the database."""

    def closing() -> T:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.to_thread(closing)


@dataclass
class Waiters:
    """Connections on which a watch was asked for."""

    answers: asyncio.Future[list[tuple[float, Exchange]]]
    connections: list[Connection]

    async def leave(self) -> None:
        self.answers.cancel()
        await asyncio.gather(*(connection.close() for connection in self.connections))


@asynccontextmanager
async def waiting(world: World) -> AsyncIterator[Waiters]:
    """Everybody waits for a change, each as an instance of its own."""
    etag = (await apart(world.get)).headers["etag"].strip('"')
    for _ in range(ATTEMPTS):
        waiters = await everybody(world, etag)
        if waiters is not None:
            break
    assert waiters is not None, "it takes longer than a minute until the server has seen everybody"
    assert (await apart(world.get)).status == 200
    assert not waiters.answers.done()
    try:
        yield waiters
    finally:
        await waiters.leave()


async def everybody(world: World, etag: str) -> Waiters | None:
    """They ask, and the server has seen them all; None where a minute ended meanwhile: its count is gone."""
    asking, minute = await apart(lambda: (world.another_caller(), clock.now().minute))
    callers = [Connection(world.server.port) for _ in range(WAITERS)]

    async def wait(number: int, caller: Connection) -> tuple[float, Exchange]:
        path = f"{world.path}watch/?etag={etag}&timeout={TIMEOUT}&instance=web-{number}"
        exchange = await caller.ask(path, headers=[f"x-api-key: {asking.token}"])
        return time.monotonic(), exchange

    assert all(await asyncio.gather(*(caller.open() for caller in callers)))
    waiters = Waiters(asyncio.gather(*(wait(n, caller) for n, caller in enumerate(callers))), callers)

    def all_counted() -> bool:
        return asking.counted() == WAITERS or clock.now().minute != minute

    await apart(lambda: wait_for(all_counted, "the server has seen everybody"))
    if asking.counted() == WAITERS:
        return waiters
    await waiters.leave()
    await apart(lambda: wait_for(lambda: held_by(world.server.port) < 20, "they are let go of"))
    return None


def held_by(port: int) -> int:
    """How many connections the server there holds, also those whose callers are gone unnoticed."""
    alive = (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)
    held = psutil.net_connections("tcp")
    return sum(one.laddr.port == port for one in held if one.laddr and one.status in alive)


def told(waiters: list[tuple[float, Exchange]], since: float) -> float:
    """All were answered; returns how many seconds it took."""
    assert {exchange.end for _, exchange in waiters} == {End.WHOLE}
    return max(at for at, _ in waiters) - since


def test_all_who_wait_are_told_at_once_and_cheaply(
    installation: Installation, database_vendor: str, tell: Tell
) -> None:
    statements = Statements.of(installation) if database_vendor == "postgresql" else None

    def asked() -> Asked:
        return statements.since() if statements is not None else Asked()

    async def story(server: Web) -> None:
        world, other = await apart(lambda: (build(server.server), build(server.server)))
        async with waiting(world) as waiters:
            asked()
            await apart(lambda: other.grant(["read"]))
            assert (await apart(other.get)).status == 200
            assert not waiters.answers.done(), "a change for others wakes nobody"
            assert asked().batches <= FEW.batches
            await apart(lambda: world.offer(100))
            committed = time.monotonic()
            answers = await waiters.answers
        took, cost = told(answers, committed), asked()
        tell("watch", {"waiting": WAITERS, "seconds until told": f"{took:.2f}", "cost": cost})
        assert {exchange.status for _, exchange in answers} == {200}
        assert all(b'"label": "pending"' in exchange.body for _, exchange in answers)
        assert took < WITHIN
        assert cost.looks <= FEW.looks
        assert cost.batches <= FEW.batches
        assert await apart(lambda: instances_given(world)) == WAITERS

    with web(installation, workers=1) as server:
        asyncio.run(story(server))


def instances_given(world: World) -> int:
    rows = Delivery.objects.filter(key_id=world.key_id, label="pending")
    return rows.values("instance").distinct().count()


def test_who_hangs_up_is_forgotten_and_who_waits_at_the_end_is_answered(installation: Installation) -> None:
    async def story(server: Web) -> None:
        gone = await apart(lambda: build(server.server))
        before = held_by(server.port)
        async with waiting(gone) as waiters:
            assert held_by(server.port) >= before + WAITERS
            await asyncio.gather(*(caller.close() for caller in waiters.connections))
        await apart(lambda: wait_for(lambda: held_by(server.port) < before + 20, "they are let go of"))
        await apart(lambda: gone.offer(100))
        assert (await apart(gone.get)).json["label"] == "pending"

        stays = await apart(lambda: build(server.server))
        async with waiting(stays) as waiters:
            assert server.process is not None
            stopped = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            answers = await waiters.answers
        assert told(answers, stopped) < WITHIN
        assert {exchange.status for _, exchange in answers} == {304}
        await apart(lambda: wait_for(server.ended, "the server ends"))
        assert server.process.returncode == 0
        # Its last process has finished whatever it had begun.
        assert len(await apart(gone.deliveries)) == 3, "delivered to somebody who is gone"
        assert len(await apart(stays.deliveries)) == 2 + WAITERS

    with web(installation, workers=1) as server:
        asyncio.run(story(server))
