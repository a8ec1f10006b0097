"""The database's time, without asking it each time: all hosts that share it decide by one clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


class DatabaseClock:
    """Goes on from the last time that was told, by this host's monotonic clock."""

    __slots__ = ("_at", "_told")

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._told = 0.0

    def tell(self, at: datetime) -> None:
        """``at`` (aware UTC) is what the database's clock shows now."""
        self._at, self._told = at, time.monotonic()

    def now(self) -> datetime:
        """Aware UTC. Until it has been told a time, that of this host."""
        if self._at is None:
            return datetime.now(UTC)
        return self._at + timedelta(seconds=time.monotonic() - self._told)
