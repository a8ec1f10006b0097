"""The one interface to counting, made from the settings once a process."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from keyvault.limits.cells import SUBJECT_BYTES, Cells

if TYPE_CHECKING:
    from keyvault.limits.redis_counter import RedisCounter


class Limiter:
    """Counts hits of subjects in minutes of UTC.

    With a ``counter`` the numbers hold for all hosts that share its Redis. Every hit is counted in this
    host's cells as well, so that the count goes on from there, not from zero, when Redis does not answer.
    """

    def __init__(self, cells: Cells, counter: RedisCounter | None = None) -> None:
        self._cells = cells
        self._counter = counter
        # Nothing is ever waited for: a caller on the event loop may use ``hit``.
        self.local = counter is None

    def hit(self, subject: bytes, now: datetime, times: int = 1) -> int:
        """Count hits of ``subject`` (16 bytes: a UUID's, or ``subject()`` of a text) at ``now`` (aware).

        Returns the number of the last one within the minute, from 1. Only where it is ``local`` there may be
        more than one at a time; elsewhere it may wait for Redis up to 0.1 s.
        """
        minute = _minute(now)
        own = self._cells.hit(subject, minute, times)
        if self._counter is None:
            return own
        if times != 1:
            raise ValueError("Redis is asked for one hit at a time.")
        return self._counter.hit(subject, minute) or own

    async def hit_async(self, subject: bytes, now: datetime) -> int:
        """``hit`` for callers on an event loop."""
        minute = _minute(now)
        own = self._cells.hit(subject, minute)
        if self._counter is None:
            return own
        return await self._counter.hit_async(subject, minute) or own

    def close(self) -> None:
        """Give everything back. Callers on an event loop use ``aclose``."""
        if self._counter is not None:
            self._counter.close()
        self._cells.close()

    async def aclose(self) -> None:
        """``close``, and the connection of this event loop."""
        if self._counter is not None:
            await self._counter.aclose()
        self.close()


@lru_cache(maxsize=1)
def limiter() -> Limiter:
    """The limiter of this process. Raises ``OSError`` or ``ValueError`` when the settings cannot be met."""
    counter: RedisCounter | None = None
    if settings.KEYTURN_RATE_LIMIT_URL:
        # The client library costs every process 23 MB, and most installations do without.
        from keyvault.limits.redis_counter import RedisCounter

        counter = RedisCounter(settings.KEYTURN_RATE_LIMIT_URL)
    return Limiter(Cells(Path(settings.KEYTURN_RATE_FILE), settings.KEYTURN_RATE_CELLS), counter)


# A fork inherits neither threads nor connections that it could use.
os.register_at_fork(after_in_child=limiter.cache_clear)


def subject(text: str) -> bytes:
    """The 16 bytes under which a text is counted."""
    return hashlib.blake2b(text.encode(), digest_size=SUBJECT_BYTES).digest()


def _minute(now: datetime) -> int:
    return int(now.timestamp() // 60)
