"""Group commit: every answer waits here until its record is durable and its decision known to be current.

What arrives while a batch is being committed is the next batch, so the more callers there are the less each
of them costs. A batch is committed only if no configuration has changed since its decisions were made; when
one has, the change log is read, and only decisions that rest on something that changed are made again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from keyvault.delivery.cache import Cache
from keyvault.delivery.lane import Lane, Outcome, Unavailable
from keyvault.delivery.limit import Tally
from keyvault.delivery.records import Dependent, Record
from keyvault.delivery.rows import Batch, Row

log = structlog.get_logger("keyturn.delivery")

# On a fast disk a batch is back before this, also on a busy machine; on a slow disk a second lane halves
# the wait.
NEXT_LANE_AFTER: Final = 0.002
RETRY_AFTER: Final = 0.5
MOST_ENTRIES: Final = 2_000


@dataclass(slots=True, eq=False)
class _Entry:
    used: Sequence[Record | Dependent]
    row: Row | None
    tally: Tally | None
    future: asyncio.Future[bool]

    def is_stale(self) -> bool:
        for record in self.used:  # noqa: SIM110 - a generator would cost more than the look
            if record.stale:
                return True
        return False

    def settle(self, confirmed: bool) -> None:
        # A caller that hung up has cancelled it.
        if not self.future.done():
            self.future.set_result(confirmed)

    def fail(self, error: Unavailable) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class GroupCommit:
    """``refresh`` reads the change log into the cache, then calls ``recheck``.

    ``fallback`` is a lane that needs no database; it is used for ``grace`` seconds after the last moment at
    which the database confirmed something. ``on_connected`` is called when the database can take over what
    went there.
    """

    def __init__(
        self,
        cache: Cache,
        lanes: Sequence[Lane],
        refresh: Callable[[], Awaitable[None]],
        *,
        fallback: Lane | None = None,
        grace: float = 0.0,
        on_connected: Callable[[], None] = lambda: None,
        on_time: Callable[[datetime], None] = lambda now: None,
        count: Callable[[Sequence[Tally]], None] = lambda tallies: None,
    ) -> None:
        # Kept: asking for it costs a call to the kernel each time.
        self._loop = asyncio.get_running_loop()
        self._cache = cache
        self._lanes = tuple(lanes)
        self._refresh = refresh
        self._fallback = fallback
        self._grace = grace
        self._on_connected = on_connected
        self._on_time = on_time
        self._count = count
        self._waiting: deque[_Entry] = deque()
        self._lost: list[_Entry] = []
        self._unsure: deque[_Entry] = deque()  # may be in the database: to the fallback, which asks later
        self._busy: dict[Lane, tuple[int, list[_Entry], bool]] = {}
        self._sent_at = 0.0
        self.batches = 0
        self.recorded = 0  # batches with deliveries that are in the database
        self._woken = False
        self._next_lane: asyncio.TimerHandle | None = None
        self._learning: asyncio.Task[None] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._refused = False
        self._closed = False
        self.confirmed_at = float("-inf")

    @property
    def away(self) -> bool:
        """Whether there is no connection, and the last attempt to make one failed."""
        return self._refused and not any(lane.connected for lane in self._lanes)

    def confirm(
        self, used: Sequence[Record | Dependent], row: Row | None, tally: Tally | None = None
    ) -> asyncio.Future[bool]:
        """Commit ``row`` (None: only make sure that the decision is current).

        A ``tally`` that owes its count is counted first. True: it is durable, and ``used`` was current at
        that moment. False: something of it has changed, or the count exceeds its limit, and nothing was
        written; decide again. Raises ``Unavailable``.
        """
        entry = _Entry(used, row, tally, self._loop.create_future())
        if entry.is_stale():
            entry.settle(False)
            return entry.future
        self._waiting.append(entry)
        if not self._woken:
            # At the end of this turn of the loop: the others that are ready now go with it.
            self._woken = True
            self._loop.call_soon(self._pump)
        return entry.future

    def recheck(self) -> None:
        """To be called when the cache has moved on: what rests on changed records is decided again."""
        kept = [entry for entry in (*self._lost, *self._waiting) if not self._settled_as_stale(entry)]
        self._lost.clear()
        self._waiting = deque(kept)
        self._unsure = deque(entry for entry in self._unsure if not self._settled_as_stale(entry))
        self._wake()

    def _settled_as_stale(self, entry: _Entry) -> bool:
        stale = entry.is_stale()
        if stale:
            entry.settle(False)
        return stale

    def _wake(self) -> None:
        if self._next_lane is not None:
            # A lane is free now: nobody waits any longer for the time of the next one.
            self._next_lane.cancel()
            self._next_lane, self._woken = None, False
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._woken, self._next_lane = False, None
        loop = self._loop
        if self._unsure and self._fallback is not None and self._fallback not in self._busy:
            self._send(self._fallback, self._unsure, loop.time())
        if not self._waiting or self._learning is not None:
            return
        if self._busy:
            early = self._sent_at + NEXT_LANE_AFTER - loop.time()
            if early > 0:
                self._woken = True
                self._next_lane = loop.call_later(early, self._pump)
                return
        lane = self._free_lane(loop.time())
        if lane is not None:
            self._send(lane, self._waiting, loop.time())

    def _free_lane(self, now: float) -> Lane | None:
        """A lane to send on. None: all are busy, or the database is away and those who wait are told so."""
        connected = [lane for lane in self._lanes if lane.connected]
        if len(connected) < len(self._lanes):
            self._connect(now)
        if connected:
            return next((lane for lane in connected if lane not in self._busy), None)
        if self._fallback is not None and self._in_grace(now):
            return None if self._fallback in self._busy else self._fallback
        if self._connecting is None:
            self._fail(self._take_waiting(), Unavailable("no connection"))
        return None

    def _in_grace(self, now: float) -> bool:
        return now - self.confirmed_at <= self._grace

    def _take_waiting(self) -> list[_Entry]:
        entries = list(self._waiting)
        self._waiting.clear()
        return entries

    def _send(self, lane: Lane, waiting: deque[_Entry], now: float) -> None:
        entries = self._admitted([waiting.popleft() for _ in range(min(len(waiting), MOST_ENTRIES))])
        if not entries:
            return
        batch = Batch()
        for entry in entries:
            batch.add(entry.row)
        self._busy[lane] = (self._cache.seen, entries, bool(batch.deliveries))
        self._sent_at = now
        self.batches += 1
        lane.send(self._cache.seen, batch, self._done)

    def _admitted(self, entries: list[_Entry]) -> list[_Entry]:
        """Those whose count allows it."""
        owing = [entry.tally for entry in entries if entry.tally is not None]
        if not owing:
            return entries
        self._count(owing)
        admitted = []
        for entry in entries:
            if entry.tally is not None and entry.tally.exceeded:
                entry.settle(False)
            else:
                admitted.append(entry)
        return admitted

    def _done(self, lane: Lane, outcome: Outcome | Unavailable) -> None:
        seen, entries, records = self._busy.pop(lane)
        if isinstance(outcome, Unavailable):
            self._not_written(lane, entries, outcome)
            self._wake()
            return
        if outcome.now is not None:
            self._on_time(outcome.now)
        if outcome.seq == seen:
            if lane is not self._fallback:
                self.confirmed_at = self._loop.time()
                self.recorded += records
            elif any(other.connected for other in self._lanes):
                self._on_connected()
            for entry in entries:
                entry.settle(True)
        else:
            self._lost.extend(entries)
            if self._cache.seen == seen:
                self._learn()
            else:
                # Another lane has brought the news already.
                self.recheck()
        if self._waiting or self._unsure:
            self._wake()

    def _not_written(self, lane: Lane, entries: list[_Entry], why: Unavailable) -> None:
        log.error("batch not committed", entries=len(entries), reason=str(why))
        lost = not lane.connected and lane is not self._fallback
        if lost and self._fallback is not None and self._in_grace(self._loop.time()):
            # The records may be there or not. Another lane would write them again; replaying asks first.
            self._unsure.extend(entries)
        else:
            self._fail(entries, why)

    def _fail(self, entries: Iterable[_Entry], error: Unavailable) -> None:
        for entry in entries:
            entry.fail(error)

    # Learning what has changed ---------------------------------------------------------------------

    def _learn(self) -> None:
        if self._learning is None:
            self._learning = self._loop.create_task(self._learn_now())

    async def _learn_now(self) -> None:
        try:
            await self._refresh()
        except Exception as error:  # whatever it was: nobody may be left waiting
            log.error("changes not read", error=type(error).__name__)
            lost, self._lost = self._lost, []
            self._fail(lost, Unavailable(type(error).__name__))
        finally:
            self._learning = None
        self.recheck()

    # Connecting ------------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        if self._connecting is None and now >= self._retry_at and not self._closed:
            self._connecting = self._loop.create_task(self._connect_now())

    async def _connect_now(self) -> None:
        try:
            for lane in self._lanes:
                if not lane.connected:
                    await lane.open()
                    self._wake()
            self._refused = False
        except Unavailable as error:
            log.error("database away", error=type(error.__cause__).__name__)
            self._retry_at = self._loop.time() + RETRY_AFTER
            self._refused = True
        finally:
            self._connecting = None
            if any(lane.connected for lane in self._lanes) and not self._closed:
                self._on_connected()
            self._wake()

    async def close(self) -> None:
        """Let batches under way finish, then close every lane."""
        self._closed = True
        # The last one to arrive is the last one to be settled.
        while entries := [
            *(entry for _, batch, _ in self._busy.values() for entry in batch),
            *self._waiting,
            *self._lost,
            *self._unsure,
        ]:
            await asyncio.wait([entry.future for entry in entries])
        if self._connecting is not None:
            # A connection that arrives later would be closed by nobody.
            await asyncio.wait({self._connecting})
        for lane in (*self._lanes, *((self._fallback,) if self._fallback else ())):
            await lane.close()
