"""Instance limits: which instances this process knows to have a seat of their token.

What the database said is good until the seat would be free again, so nobody has to be told of anything: a
seat that is taken ends by its time alone, and no other process gives it away before. Without a limit nothing
of this is looked at.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import structlog
from django.db import DatabaseError, OperationalError

from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.delivery.records import TokenRecord, as_uuid
from keyvault.delivery.requests import Request
from keyvault.delivery.workers import run
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.services import seats

log = structlog.get_logger("keyturn.delivery")

_Name = tuple[bytes, str]  # of a token and an instance


class Unseated(Exception):
    """The instance is not known to have a seat: ``Seats.take`` one first, then decide."""

    def __init__(self, token: TokenRecord, instance: str, address: str | None) -> None:
        super().__init__()
        self.token = token
        self.instance = instance
        self.address = address


class Seats:
    """By token and instance, since when the database knows of it. Used on the event loop only.

    ``away`` tells whether the database cannot be asked.
    """

    def __init__(self, capacity: int, away: Callable[[], bool]) -> None:
        self._capacity = capacity
        self._away = away
        self._noted: OrderedDict[_Name, datetime] = OrderedDict()
        self._taking: dict[_Name, asyncio.Task[Exception | None]] = {}

    def demand(self, token: TokenRecord, request: Request, now: datetime) -> datetime | None:
        """Returns until when the instance need not be looked at again; None: for ever.

        Raises ``Unseated``, and ``validation_error`` for a request that names no instance. A seat whose row
        should be moved is moved beside the answer: it lasts much longer than that takes.
        """
        if token.instance_limit is None:
            return None
        if not request.instance:
            raise invalid(
                "instance",
                "This token has an instance limit. Name the instance with ?instance= or X-Instance-ID.",
            )
        noted = self._noted.get((token.id, request.instance))
        if noted is None or noted + seats.KEPT <= now:
            raise Unseated(token, request.instance, request.peer)
        if noted + seats.NOTED <= now:
            self._begin(Unseated(token, request.instance, request.peer), now)
        return noted + seats.NOTED

    async def take(self, wanted: Unseated, now: datetime) -> Exception | None:
        """Take a seat; returns why there is none. Who wants the same one at this moment shares the answer."""
        return await asyncio.shield(self._begin(wanted, now))

    def _begin(self, wanted: Unseated, now: datetime) -> asyncio.Task[Exception | None]:
        name = (wanted.token.id, wanted.instance)
        task = self._taking.get(name)
        if task is None:
            task = self._taking[name] = asyncio.create_task(self._take(name, wanted, now))
            task.add_done_callback(lambda _: self._taking.pop(name))
        return task

    async def _take(self, name: _Name, wanted: Unseated, now: datetime) -> Exception | None:
        token = wanted.token
        try:
            if self._away():
                # A thread would wait long for a connection that cannot come.
                raise OperationalError("The database is away.")
            taken = await run(
                seats.take, as_uuid(token.id), wanted.instance, address=wanted.address or "", now=now
            )
        except (DatabaseError, IntegrityError, KeyringError, KeyServiceUnavailable) as error:
            log.warning("no answer about a seat", error=type(error).__name__, consumer=token.consumer)
            return error
        if taken:
            self._remember(name, now)
            return None
        self._noted.pop(name, None)
        log.warning(
            "token refused",
            reason="instance limit",
            consumer=token.consumer,
            token_id=str(as_uuid(token.id)),
            instance=wanted.instance,
            peer=wanted.address,
        )
        return _full(token)

    def _remember(self, name: _Name, now: datetime) -> None:
        self._noted[name] = now
        self._noted.move_to_end(name)
        if len(self._noted) > self._capacity:
            self._noted.popitem(last=False)

    async def close(self) -> None:
        """Wait for what is on its way."""
        await asyncio.gather(*self._taking.values())


def _full(token: TokenRecord) -> KeyturnError:
    return denied(
        f"The instance limit of this token is {token.instance_limit}, and that many others have fetched"
        " with it within the last hour. Stop one and wait for an hour, or use a token with a higher limit."
        " If you do not know them all, somebody else may have the token: replace it."
    )
