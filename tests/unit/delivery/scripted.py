"""A group commit whose lanes and change log do what the story says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from keyvault.delivery.cache import Cache, News
from keyvault.delivery.group_commit import GroupCommit
from keyvault.delivery.lane import Done, Outcome, Unavailable
from keyvault.delivery.records import Record
from keyvault.delivery.rows import Batch, DeliveryRow
from tests.unit.delivery.virtual_time import turns

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ID = bytes(16)
GRACE = 20.0


class ScriptedLane:
    """A lane that waits to be told what has become of its batch."""

    def __init__(self, *, connected: bool = True) -> None:
        self.connected = connected
        self.refuses = False
        self.opened = 0
        self.closed = False
        self.batches: list[list[str]] = []  # the request ids of each
        self.seen: list[int] = []
        self._done: Done | None = None

    async def open(self) -> None:
        self.opened += 1
        await asyncio.sleep(0)
        if self.refuses:
            raise Unavailable from ConnectionRefusedError()
        self.connected = True

    def send(self, seen: int, batch: Batch, done: Done) -> None:
        assert self._done is None, "a busy lane was sent another batch"
        assert self.connected, "a batch was sent on a lane without a connection"
        self.seen.append(seen)
        self.batches.append([row.request_id for row in batch.deliveries])
        self._done = done

    @property
    def busy(self) -> bool:
        return self._done is not None

    async def answer(self, outcome: Outcome | Unavailable, *, disconnected: bool = False) -> None:
        done, self._done = self._done, None
        assert done is not None, "nothing was sent"
        if disconnected:
            self.connected = False
        done(self, outcome)
        await turns()

    async def commit(self) -> None:
        await self.answer(Outcome(self.seen[-1]))

    async def lose(self) -> None:
        """The connection breaks; nobody knows whether the batch was written."""
        await self.answer(Unavailable("connection lost"), disconnected=True)

    async def close(self) -> None:
        self.closed, self.connected = True, False


class Scene:
    """A group commit with its lanes, and a change log that stands where the story puts it."""

    def __init__(self, lanes: int = 1, *, fallback: bool = False, grace: float = GRACE) -> None:
        self.cache = Cache(100)
        self.cache.seen = 5
        self.lanes = [ScriptedLane() for _ in range(lanes)]
        self.fallback = ScriptedLane() if fallback else None
        self.log_at = 5
        self.changed: list[Record] = []
        self.refreshed = 0
        self.refresh_waits: Callable[[], Awaitable[None]] | None = None
        self.connected = 0
        self.told: list[datetime] = []
        self.commit = GroupCommit(
            self.cache,
            self.lanes,
            self._refresh,
            fallback=self.fallback,
            grace=grace if fallback else 0.0,
            on_connected=self._note_connected,
            on_time=self.told.append,
        )

    @property
    def lane(self) -> ScriptedLane:
        return self.lanes[0]

    def _note_connected(self) -> None:
        self.connected += 1

    async def _refresh(self) -> None:
        self.refreshed += 1
        if self.refresh_waits is not None:
            await self.refresh_waits()
        self.cache.apply(News(self.log_at, NOW))
        for record in self.changed:
            record.stale = True
        self.commit.recheck()

    def ask(self, name: str, *used: Record) -> asyncio.Future[bool]:
        return self.commit.confirm(used, row(name))

    async def confirmed_once(self) -> None:
        """The database has confirmed something at this moment."""
        future = self.ask("first")
        await turns()
        await self.lane.commit()
        assert await future


def row(name: str) -> DeliveryRow:
    return DeliveryRow(NOW, ID, ID, ID, ID, "web-1", "current", "consumer_token", 200, name)


def answers(*futures: asyncio.Future[bool]) -> list[bool | str]:
    """True, False, or "unavailable" of each; "waits" for one that has no answer."""

    def answer(future: asyncio.Future[bool]) -> bool | str:
        if not future.done():
            return "waits"
        return "unavailable" if isinstance(future.exception(), Unavailable) else future.result()

    return [answer(future) for future in futures]
