"""Counting for all hosts, in one Redis.

On every event loop one round trip runs at a time. Hits that arrive meanwhile are the next one, added up by
subject, and each still gets a number of its own. When Redis is away or slow nobody waits for it: the answer
is None, and the caller has a count of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from keyvault.limits.notice import Notice, log

PATIENCE: Final = 0.1  # seconds for one round trip, connecting included
AGAIN: Final = 1.0  # seconds after a failure until Redis is asked again

# One command and one short text back, however many subjects there are.
SCRIPT: Final = """
local totals = {}
for place, key in ipairs(KEYS) do
  totals[place] = string.format('%d', redis.call('INCRBY', key, ARGV[place]))
  redis.call('EXPIRE', key, 120)
end
return table.concat(totals, ' ')
"""

Waiters = list["asyncio.Future[int | None]"]


class RedisCounter:
    """The counters at ``url``; connections are made at the first hit. ``patience``: seconds for a round trip.

    Raises ``ValueError``, without the URL, for one that is not redis, rediss, valkey, valkeys or unix.
    """

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        # To the client library Valkey is Redis.
        self._url = url.replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)
        if self._url.partition("://")[0] not in ("redis", "rediss", "unix"):
            raise ValueError(
                "KEYTURN_RATE_LIMIT_URL must be redis://, rediss://, valkey://, valkeys:// or unix://."
            )
        self._patience = patience
        _client(self._url, patience)  # what is wrong with the address is said now, not at some request
        self._gate = _Gate()
        self._turns: dict[asyncio.AbstractEventLoop, _Turns] = {}
        self._own_loop = _OwnLoop()

    async def hit_async(self, subject: bytes, minute: int) -> int | None:
        """Count one hit; its number in this minute, or None when Redis did not say it in time."""
        if not self._gate.opens():
            return None
        loop = asyncio.get_running_loop()
        turns = self._turns.get(loop)
        if turns is None:
            turns = self._turns[loop] = _Turns(self._url, self._gate, self._patience)
        return await turns.join(f"keyturn:rate:{minute}:{subject.hex()}")

    def hit(self, subject: bytes, minute: int) -> int | None:
        """``hit_async`` for threads that have no event loop."""
        if self._gate.shut:
            return None
        hit = self.hit_async(subject, minute)
        return asyncio.run_coroutine_threadsafe(hit, self._own_loop.running()).result()

    async def aclose(self) -> None:
        """Close the connection of the running event loop."""
        turns = self._turns.pop(asyncio.get_running_loop(), None)
        if turns is not None:
            await turns.aclose()

    def close(self) -> None:
        """Close what threads without an event loop have used."""
        if self._own_loop.started:
            asyncio.run_coroutine_threadsafe(self.aclose(), self._own_loop.running()).result()
            self._own_loop.stop()


class _Gate:
    """Whether Redis is asked: always while it answers, else by one caller every ``AGAIN`` seconds."""

    def __init__(self) -> None:
        self._again: float | None = None
        self._away = Notice("limits.redis_away")

    @property
    def shut(self) -> bool:
        return self._again is not None and time.monotonic() < self._again

    def opens(self) -> bool:
        """Whether this caller may ask now."""
        if self.shut:
            return False
        if self._again is not None:
            # The others do not wait for the one that tries.
            self._again = time.monotonic() + AGAIN
        return True

    def failed(self, error: Exception) -> None:
        self._again = time.monotonic() + AGAIN
        # Not its text: that may name the address.
        self._away.warn(error=type(error).__name__)

    def succeeded(self) -> None:
        if self._again is not None:
            self._again = None
            log.info("limits.redis_back")


class _Turns:
    """The round trips of one event loop, one after the other, over one connection."""

    def __init__(self, url: str, gate: _Gate, patience: float) -> None:
        self._gate, self._patience = gate, patience
        self._client = _client(url, patience)
        self._waiting: dict[str, Waiters] = {}
        self._task: asyncio.Task[None] | None = None

    def join(self, key: str) -> asyncio.Future[int | None]:
        """Count one hit of ``key`` in the next round trip."""
        waiter: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(waiter)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return waiter

    async def aclose(self) -> None:
        if self._task is not None:
            await self._task
        await self._client.aclose()

    async def _run(self) -> None:
        turn: dict[str, Waiters] = {}
        try:
            while self._waiting:
                turn, self._waiting = self._waiting, {}
                _answer(turn, await self._totals(turn))
                self._gate.succeeded()
        except Exception as error:
            # Whatever the matter is with Redis, no request fails for it.
            self._gate.failed(error)
        finally:
            self._task = None
            _give_up(turn)
            _give_up(self._waiting)
            self._waiting = {}

    async def _totals(self, turn: Mapping[str, Waiters]) -> Iterable[int]:
        """Count this turn's hits; the new total of every key, in order."""
        counts = [len(waiters) for waiters in turn.values()]
        async with asyncio.timeout(self._patience):
            reply: bytes | str = await self._client.eval(SCRIPT, len(turn), *turn, *counts)
        return map(int, reply.split())


def _client(url: str, patience: float) -> Redis:
    """A client that has no connection yet. Raises ``ValueError`` for an address that says nothing."""
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),  # a second try would count twice
        socket_timeout=patience,
        socket_connect_timeout=patience,
        socket_keepalive=True,
        # Nothing to agree on before the first command, with old servers and new ones.
        protocol=2,
        driver_info=None,
    )


def _answer(turn: Mapping[str, Waiters], totals: Iterable[int]) -> None:
    for waiters, total in zip(turn.values(), totals, strict=True):
        for number, waiter in enumerate(waiters, total - len(waiters) + 1):
            # Who was cancelled meanwhile is counted and needs no answer.
            if not waiter.done():
                waiter.set_result(number)


def _give_up(turn: Mapping[str, Waiters]) -> None:
    for waiters in turn.values():
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _OwnLoop:
    """An event loop in a thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        return self._loop is not None

    def running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="limits-redis", daemon=True
                )
                self._thread.start()
            return self._loop

    def stop(self) -> None:
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
