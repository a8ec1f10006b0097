"""Step 3: how often may this token ask. Access tokens share the minute of the token they were minted from."""

from __future__ import annotations

from datetime import datetime

from keyvault.delivery.records import TokenRecord
from keyvault.exceptions import KeyturnError
from keyvault.limits import Limiter, Window


class Uncounted(Exception):
    """The count is kept elsewhere: ``Tally.count_elsewhere`` first, then decide."""

    def __init__(self, subject: bytes) -> None:
        super().__init__()
        self.subject = subject


class Tally:
    """Counts one request once for each subject, however often it is decided.

    ``window`` is where the first subject stands with it: what the answer tells in ``RateLimit-*``.
    """

    __slots__ = ("_limiter", "_numbers", "window")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._numbers: dict[bytes, int] = {}
        self.window: Window | None = None

    def count(self, token: TokenRecord, now: datetime) -> None:
        """Raises ``rate_limited``, and ``Uncounted`` where the number has to be fetched first."""
        if self.number(token.id, token.rate_per_minute, now).exceeded:
            raise KeyturnError("rate_limited", "Too many requests.")

    def number(self, subject: bytes, limit: int, now: datetime) -> Window:
        """Where the subject (16 bytes) stands with this request. Raises ``Uncounted``."""
        number = self._numbers.get(subject)
        if number is None:
            if not self._limiter.local:
                raise Uncounted(subject)
            number = self._numbers[subject] = self._limiter.hit(subject, now)
        window = Window.at(limit, number, now)
        if self.window is None:
            self.window = window
        return window

    async def count_elsewhere(self, subject: bytes, now: datetime) -> None:
        self._numbers[subject] = await self._limiter.hit_async(subject, now)
