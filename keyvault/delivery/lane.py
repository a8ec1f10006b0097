"""A lane: one connection on which batches are committed, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from keyvault.delivery.rows import Batch

# A statement that takes longer than this has failed; nobody waits for a reply that long.
FLUSH_SECONDS: Final = 5.0


class Unavailable(Exception):
    """The database cannot be reached, or did not take the batch. Whether it did is not always known."""


class Outcome(NamedTuple):
    """The number of the last change at the moment of the commit, and the database's time where it has one."""

    seq: int
    now: datetime | None = None


Done = Callable[["Lane", Outcome | Unavailable], None]


class Lane(Protocol):
    """``send`` may be called while ``connected`` and not busy; it answers through ``done``, never at once.

    Where the outcome has the number that was sent, the batch is durable; where it has another one, nothing
    was written.
    """

    connected: bool

    async def open(self) -> None:
        """Connect. Raises ``Unavailable``."""

    def send(self, seen: int, batch: Batch, done: Done) -> None:
        """Commit the batch if ``seen`` is still the number of the last change."""

    async def close(self) -> None: ...
