"""The data plane of one process: its memory, its group commit and those who wait for a change."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from django.conf import settings
from django.db import DatabaseError, OperationalError, connection

from keyvault import keystore
from keyvault.crypto.environment_keys import NotOpened
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.crypto.keyring import Keys
from keyvault.delivery import loading, spool
from keyvault.delivery.answer import Answer, NotRecorded, failure
from keyvault.delivery.authenticate import Claims, Dead, Person
from keyvault.delivery.cache import Cache, Kind, Missing, View, Wanted
from keyvault.delivery.group_commit import GroupCommit
from keyvault.delivery.lane import Lane, Unavailable
from keyvault.delivery.lane_postgresql import PostgreSQLLane
from keyvault.delivery.lane_sqlite import SQLiteLane
from keyvault.delivery.limit import Tally, Uncounted, count_together
from keyvault.delivery.records import Record
from keyvault.delivery.replays import Replays, tell
from keyvault.delivery.requests import Request
from keyvault.delivery.seats import Seats, Unseated
from keyvault.delivery.standing import Decided, Standings
from keyvault.delivery.timing import DatabaseClock
from keyvault.delivery.workers import run
from keyvault.exceptions import KeyturnError
from keyvault.limits import limiter
from keyvault.services import sealing

log = structlog.get_logger("keyturn.delivery")

FOLLOW_SECONDS: Final = 0.5
REPLAY_AGAIN: Final = 2.0
SEAL_SECONDS: Final = 0.8  # and what it takes: within a second in all
RECENT: Final = timedelta(days=1)
MOST_PRELOADED: Final = 10_000


class Plane:
    """Belongs to one event loop. ``start`` before the first request, ``close`` after the last."""

    def __init__(self) -> None:
        self.cache = Cache(settings.KEYTURN_CACHE_KEYS)
        self.claims = Claims()
        self._standings = Standings(settings.KEYTURN_CACHE_KEYS)
        self._replays = Replays()
        self._clock = DatabaseClock()
        self._limiter = limiter()
        self.stopping = asyncio.Event()
        directory = Path(settings.KEYTURN_DATA) / "spool"
        self._spool = spool.SpoolLane(directory)
        self._spool_directory = directory
        grace: float = settings.DELIVERY_OUTAGE_GRACE
        self._commit = GroupCommit(
            self.cache,
            _lanes(),
            self._refresh,
            fallback=self._spool if grace > 0 else None,
            grace=grace,
            on_connected=self._replay_soon,
            on_time=self._clock.tell,
            count=self._count,
        )
        self.seats = Seats(settings.KEYTURN_CACHE_KEYS, lambda: self._commit.away)
        self._sealed = 0  # batches, as ``recorded`` of the group commit counts them
        self._wanted: Wanted = {}
        self._next_look: asyncio.Future[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._waiters: dict[asyncio.Future[None], Sequence[Record]] = {}
        self._keys: Keys | None = None
        self._keys_at = -1
        self._tasks: set[asyncio.Task[None]] = set()

    # Life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow the change log, and load what was used lately; nobody has to wait for it."""
        self._keep(self._follow())
        self._keep(self._preload())
        self._keep(self._seal())

    def stop(self) -> None:
        """Those who wait for a change are answered now; everybody else goes on."""
        self.stopping.set()
        for waiter in tuple(self._waiters):
            _wake(waiter)

    async def close(self) -> None:
        """Commit what is left, and let go of every connection."""
        self.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.seats.close()
        await self._commit.close()
        await self._seal_now()
        if not self._limiter.local:
            # Its connection belongs to this event loop.
            limiter.cache_clear()
            await self._limiter.aclose()
        await self._spool.close()

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        """Notice changes also while nobody asks for a key: for those who wait, and for the outage grace."""
        loop = asyncio.get_running_loop()
        while True:
            with suppress(Unavailable):
                if loop.time() - self._commit.confirmed_at >= FOLLOW_SECONDS:
                    await self._commit.confirm((), None)
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _seal(self) -> None:
        """Seal what was delivered into the audit chain, each second in which something was."""
        while True:
            await asyncio.sleep(SEAL_SECONDS)
            await self._seal_now()

    async def _seal_now(self) -> None:
        recorded = self._commit.recorded
        if recorded == self._sealed:
            return
        try:
            await run(sealing.seal, self._clock.now())
            self._sealed = recorded
        except (DatabaseError, KeyringError, KeyServiceUnavailable) as error:
            log.warning("deliveries not sealed yet", error=type(error).__name__)

    async def _preload(self) -> None:
        try:
            wanted = await run(loading.recently_used, self._clock.now() - RECENT, MOST_PRELOADED)
            self._want(wanted)
            await self._refresh()
            # What is there now stays: the collector need not look at it again and again.
            gc.freeze()
        except DatabaseError as error:
            log.warning("nothing preloaded", error=type(error).__name__)

    def _replay_soon(self) -> None:
        self._keep(self._replay())

    async def _replay(self) -> None:
        while True:
            await self._spool.hand_over()
            try:
                await run(spool.replay, self._spool_directory)
                return
            except DatabaseError as error:
                log.warning("spool not replayed", error=type(error).__name__)
            await asyncio.sleep(REPLAY_AGAIN)

    # Memory -----------------------------------------------------------------------------------------

    def keys(self) -> Keys:
        """The keys of this process; a changed keyring file is noticed by the next batch."""
        if self._keys is None or self._keys_at != self._commit.batches:
            held, self._keys = self._keys, keystore.keys()
            self._keys_at = self._commit.batches
            if held is not None and held is not self._keys:
                # Row MACs and ETags were made with the keys of before.
                self._forget_everything()
        return self._keys

    def _forget_everything(self) -> None:
        self.cache.clear()
        self._changed()

    def _changed(self) -> None:
        self._commit.recheck()
        for waiter, used in tuple(self._waiters.items()):
            if any(record.stale for record in used):
                _wake(waiter)

    async def load(self, kind: Kind, name: Hashable) -> None:
        """Read a record, together with what others miss at this moment. Raises ``DatabaseError``."""
        self._want({kind: {name}})
        await self._refresh()

    def _want(self, wanted: Wanted) -> None:
        for kind, names in wanted.items():
            self._wanted.setdefault(kind, set()).update(names)

    async def _refresh(self) -> None:
        """One look at the database: what has changed, and what is wanted."""
        look = self._soon()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(look)

    def _soon(self) -> asyncio.Future[None]:
        """The look that has not begun yet."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_future()
        return self._next_look

    async def _look(self) -> None:
        while self._next_look is not None:
            # Let the others of this turn join.
            await asyncio.sleep(0)
            wanted, done = self._wanted, self._next_look
            self._wanted, self._next_look = {}, None
            try:
                if self._commit.away:
                    # A thread would wait long for a connection that cannot come.
                    raise OperationalError("The database is away.")
                news = await run(loading.look, self.cache.seen, wanted)
            except Exception as error:  # everybody who waits for this look gets the reason
                done.set_exception(error)
                done.exception()  # nobody may be left: that is no fault
                continue
            self._clock.tell(news.now)
            if self.cache.apply(news):
                self._changed()
            done.set_result(None)
            lost = self.cache.take_lost()
            if lost:
                # Read together now, rather than one by one as each is asked for.
                self._want(lost)
                self._soon()
        self._looking = None

    async def wait_for_change(
        self, used: Sequence[Record], seconds: float, gone: asyncio.Future[None]
    ) -> None:
        """Wait until something of ``used`` changed, the caller is gone, we are stopping, or time is up."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = used
        try:
            if not self.stopping.is_set() and not any(record.stale for record in used):
                await asyncio.wait({waiter, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiters[waiter]

    # Deciding ---------------------------------------------------------------------------------------

    async def repeat(self, words: bytes, request_id: str, tally: Tally) -> Answer | None:
        """The answer to a request in words that were answered before; None: it has to be decided.

        Raises ``NotRecorded``.
        """
        try:
            now = self._clock.now()
            found = self._standings.find(words, self.keys(), now)
            if found is None:
                return None
            row = found.again(now, request_id, tally)
            if tally.owes and not self._limiter.local:
                await tally.settle_elsewhere(now)
            answer = self._standings.answer(words, found)
            return answer if await self._commit.confirm((found,), row, tally) else None
        except Unavailable as error:
            raise NotRecorded from error
        except (KeyturnError, KeyringError, KeyServiceUnavailable, Uncounted):
            # Whatever it is: deciding it from the start comes to the same, and says so.
            return None

    async def settle(self, request: Request, decide: Callable[[View], Decided]) -> Answer:
        """Decide, record and confirm, as often as it takes, and return an answer that may leave.

        A refusal is confirmed as well: a "no" must not outlive the grant that ends it.
        """
        request_id = request.request_id
        while True:
            try:
                if self.cache.seen < 0:
                    # Nothing is decided before the first look: access tokens name the installation.
                    await self._refresh()
                view = View(self.cache, self.keys(), self._clock.now())
            except (KeyringError, KeyServiceUnavailable, DatabaseError) as error:
                return failure(error, request_id)
            try:
                decided = decide(view)
            except Missing as missing:
                try:
                    await self.load(missing.kind, missing.name)
                except DatabaseError as error:
                    return failure(error, request_id)
                continue
            except Uncounted as uncounted:
                await request.tally.count_elsewhere(uncounted.subject, view.now)
                continue
            except Unseated as unseated:
                refusal = await self.seats.take(unseated, view.now)
                if refusal is None:
                    continue
                decided = Decided(failure(refusal, request_id))
            except Person as person:
                return await self._refuse(person, request_id)
            except (KeyturnError, IntegrityError, KeyringError) as error:
                if isinstance(error, Dead) and self._replays.note(error.token, error.address, view.now):
                    self._keep(self._tell_replays())
                decided = Decided(failure(error, request_id))
            except KeyServiceUnavailable as error:
                if self._has_new_keys() or await self._opened(error):
                    continue
                decided = Decided(failure(error, request_id))
            try:
                if await self._commit.confirm(view.used, decided.row):
                    if request.words and decided.standing is not None:
                        self._standings.keep(request.words, decided.standing, decided.answer, view.keys)
                    return decided.answer
            except Unavailable as error:
                return failure(NotRecorded() if decided.row else error, request_id)

    async def _refuse(self, person: Person, request_id: str) -> Answer:
        try:
            return failure(await run(person.refusal), request_id)
        except DatabaseError as error:
            return failure(error, request_id)

    async def _tell_replays(self) -> None:
        while seen := self._replays.take():
            if not await run(tell, seen):
                self._replays.forget(seen)

    def _has_new_keys(self) -> bool:
        """Whether the keyring has changed since this decision: then it knows the KEK that was missing."""
        held, self._keys_at = self._keys, -1
        return self.keys() is not held

    @staticmethod
    async def _opened(error: KeyServiceUnavailable) -> bool:
        """Whether the environment key that was missing could be had from its provider, on a thread."""
        return isinstance(error, NotOpened) and await run(error.open)

    def tally(self) -> Tally:
        return Tally(self._limiter)

    def _count(self, tallies: Sequence[Tally]) -> None:
        count_together(self._limiter, tallies, self._clock.now())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _lanes() -> list[Lane]:
    if connection.vendor == "sqlite":
        return [SQLiteLane()]
    return [PostgreSQLLane() for _ in range(settings.KEYTURN_FLUSH_CONNECTIONS)]
