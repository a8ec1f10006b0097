"""Step 3: how often may this token ask.

The database counts, so the count is exact for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.delivery.answer import Answer, failure, plain
from keyvault.delivery.authenticate import Caller
from keyvault.exceptions import KeyturnError
from keyvault.services import usage


@dataclass(frozen=True, slots=True)
class Window:
    """A token's use of the running minute. ``reset`` is in whole seconds, at least 1."""

    limit: int
    count: int
    reset: int

    @property
    def exceeded(self) -> bool:
        return self.count > self.limit

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        told = (
            ("RateLimit-Limit", str(self.limit)),
            ("RateLimit-Remaining", str(max(0, self.limit - self.count))),
            ("RateLimit-Reset", str(self.reset)),
        )
        return (*told, ("Retry-After", str(self.reset))) if self.exceeded else told


def count_request(caller: Caller, now: datetime) -> Window:
    """Count this request. Access tokens share the minute of the token that they were minted from."""
    count = usage.hit(f"token:{caller.token.id}", now=now)
    return Window(caller.token.rate_per_minute, count, 60 - now.second)


def counted(
    caller: Caller,
    request_id: str,
    now: datetime,
    work: Callable[[], Answer],
    *,
    window: Window | None = None,
) -> Answer:
    """Count the request, then do its work, in one transaction: one commit pays for both.

    A refusal is an answer, so its request stays counted. ``window`` is that of a request that was counted
    before. Errors of the database and ``NotRecorded`` undo everything and are raised.
    """
    with transaction.atomic():
        window = window or count_request(caller, now)
        answer = plain("rate_limited", request_id) if window.exceeded else _attempt(work, request_id)
    return answer.adding(window.headers)


def _attempt(work: Callable[[], Answer], request_id: str) -> Answer:
    try:
        return work()
    except (KeyturnError, IntegrityError, KeyServiceUnavailable, KeyringError) as error:
        return failure(error, request_id)
