"""What a count means for the request that was counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class Window:
    """A subject's use of the running minute. ``reset`` is in whole seconds, at least 1."""

    limit: int
    count: int
    reset: int

    @classmethod
    def at(cls, limit: int, count: int, now: datetime) -> Window:
        """The window of the request that was number ``count`` in the minute of ``now`` (aware UTC)."""
        return cls(limit, count, 60 - now.second)

    @property
    def exceeded(self) -> bool:
        return self.count > self.limit

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.count)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        told = (
            ("RateLimit-Limit", str(self.limit)),
            ("RateLimit-Remaining", str(self.remaining)),
            ("RateLimit-Reset", str(self.reset)),
        )
        return (*told, ("Retry-After", str(self.reset))) if self.exceeded else told
