"""Step 3: how often may this token ask. Access tokens share the minute of the token they were minted from."""

from __future__ import annotations

from collections.abc import Iterable
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

    ``window`` is where the caller stands with it: what the answer tells in ``RateLimit-*``.
    """

    __slots__ = ("_limit", "_limiter", "_numbers", "subject", "window")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._numbers: dict[bytes, int] = {}
        self.window: Window | None = None
        self.subject = b""
        self._limit = 0

    def count(self, token: TokenRecord, now: datetime) -> None:
        """Raises ``rate_limited``, and ``Uncounted`` where the number has to be fetched first."""
        self.window = self.number(token.id, token.rate_per_minute, now)
        if self.window.exceeded:
            raise KeyturnError("rate_limited", "Too many requests.")

    def number(self, subject: bytes, limit: int, now: datetime) -> Window:
        """Where the subject (16 bytes) stands with this request. Raises ``Uncounted``."""
        number = self._numbers.get(subject)
        if number is None:
            if not self._limiter.local:
                raise Uncounted(subject)
            number = self._numbers[subject] = self._limiter.hit(subject, now)
        return Window.at(limit, number, now)

    async def count_elsewhere(self, subject: bytes, now: datetime) -> None:
        self._numbers[subject] = await self._limiter.hit_async(subject, now)

    # Counting with others ---------------------------------------------------------------------------

    def owe(self, token: TokenRecord) -> None:
        """Note whom to count; ``count_together`` does it before the answer is recorded."""
        self.subject, self._limit = token.id, token.rate_per_minute

    @property
    def owes(self) -> bool:
        return bool(self.subject) and self.subject not in self._numbers

    def settle(self, number: int, now: datetime) -> None:
        self._numbers[self.subject] = number
        self.window = Window.at(self._limit, number, now)

    async def settle_elsewhere(self, now: datetime) -> None:
        self.settle(await self._limiter.hit_async(self.subject, now), now)

    @property
    def exceeded(self) -> bool:
        return self.window is not None and self.window.exceeded


def count_together(limiter: Limiter, tallies: Iterable[Tally], now: datetime) -> None:
    """Count requests that owe it, those of one subject in one step: each still has its own number."""
    owing: dict[bytes, list[Tally]] = {}
    for tally in tallies:
        if tally.owes:
            owing.setdefault(tally.subject, []).append(tally)
    for subject, together in owing.items():
        last = limiter.hit(subject, now, len(together))
        for number, tally in enumerate(together, last - len(together) + 1):
            tally.settle(number, now)
