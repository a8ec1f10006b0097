"""Step 3: how often may this token ask. Access tokens share the minute of the token they were minted from."""

from __future__ import annotations

from datetime import datetime

from keyvault.delivery.records import TokenRecord
from keyvault.exceptions import KeyturnError
from keyvault.limits import Limiter, Window


class Uncounted(Exception):
    """The count is kept elsewhere: ``tally.count_elsewhere`` first, then decide."""

    def __init__(self, tally: Tally, subject: bytes) -> None:
        super().__init__()
        self.tally = tally
        self.subject = subject


class Tally:
    """Counts one request once, however often it is decided."""

    __slots__ = ("_limiter", "_number", "window")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._number = 0
        self.window: Window | None = None

    def count(self, token: TokenRecord, now: datetime) -> None:
        """Raises ``rate_limited``, and ``Uncounted`` where the number has to be fetched first."""
        if self.number(token.id, token.rate_per_minute, now).exceeded:
            raise KeyturnError("rate_limited", "Too many requests.")

    def number(self, subject: bytes, limit: int, now: datetime) -> Window:
        """Where the subject (16 bytes) stands with this request. Raises ``Uncounted``."""
        if self.window is None:
            self.window = Window.at(limit, self._count(subject, now), now)
        return self.window

    def _count(self, subject: bytes, now: datetime) -> int:
        if self._number == 0:
            if not self._limiter.local:
                raise Uncounted(self, subject)
            self._number = self._limiter.hit(subject, now)
        return self._number

    async def count_elsewhere(self, subject: bytes, now: datetime) -> None:
        self._number = await self._limiter.hit_async(subject, now)
