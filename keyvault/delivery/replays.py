"""Dead tokens that were presented, on their way to the audit. Nobody who is refused waits for it."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Final, NamedTuple

import structlog
from django.db import DatabaseError

from keyvault import clock
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.delivery.records import TokenRecord, as_uuid
from keyvault.services import replays

log = structlog.get_logger("keyturn.delivery")

_REMEMBERED: Final = 10_000  # tokens, each told of once in a while
_MOST_WAITING: Final = 100


class Seen(NamedTuple):
    token: bytes
    address: str


class Replays:
    """What this process has seen and not told yet. Used on the event loop only, so without locks.

    A flood costs a look at a dictionary for each request: of one token once an hour, of many tokens no more
    than wait here already.
    """

    def __init__(self) -> None:
        self._noted: OrderedDict[bytes, datetime] = OrderedDict()
        self._waiting: list[Seen] = []
        self._telling = False

    def note(self, token: TokenRecord, address: str | None, now: datetime) -> bool:
        """Take note of a use; returns whether somebody has to be sent to tell what waits."""
        last = self._noted.get(token.id)
        if (last is not None and now - last < replays.EVERY) or len(self._waiting) >= _MOST_WAITING:
            return False
        self._noted[token.id] = now
        self._noted.move_to_end(token.id)
        if len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
        self._waiting.append(Seen(token.id, address or ""))
        begin, self._telling = not self._telling, True
        return begin

    def take(self) -> list[Seen]:
        """What waits, for whoever was sent; empty once there is no more, and then somebody else may go."""
        waiting, self._waiting = self._waiting, []
        self._telling = bool(waiting)
        return waiting

    def forget(self, seen: list[Seen]) -> None:
        """It could not be told: the next use is noted again."""
        for one in seen:
            self._noted.pop(one.token, None)


def tell(seen: list[Seen]) -> bool:
    """On a thread; returns whether all of it is recorded now."""
    try:
        for one in seen:
            replays.record(as_uuid(one.token), address=one.address, now=clock.now())
    except (DatabaseError, KeyringError, KeyServiceUnavailable) as error:
        log.warning("the use of a dead token is not recorded", error=type(error).__name__)
        return False
    return True
