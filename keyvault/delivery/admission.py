"""For endpoints that work on a thread: their callers are admitted by the same steps as a delivery."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, transaction

from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.delivery.answer import Answer, NotRecorded, failure
from keyvault.delivery.authenticate import Caller, authenticate
from keyvault.delivery.cache import View
from keyvault.delivery.plane import Plane
from keyvault.delivery.requests import Request
from keyvault.delivery.standing import Decided
from keyvault.delivery.workers import run
from keyvault.exceptions import KeyturnError

T = TypeVar("T")

_ADMITTED = Answer(200)


async def admitted(
    plane: Plane,
    request: Request,
    check: Callable[[View, Caller], T],
    work: Callable[[T], Answer],
    *,
    access_tokens: bool = True,
) -> Answer:
    """Authenticate, count and ``check`` in memory; once that is confirmed, ``work`` in one transaction."""
    checked = list[T]()

    def decide(view: View) -> Decided:
        checked.clear()
        caller = authenticate(view, request, plane.claims, access_tokens=access_tokens)
        request.tally.count(caller.token, view.now)
        checked.append(check(view, caller))
        return Decided(_ADMITTED)

    answer = await plane.settle(request, decide)
    if answer is _ADMITTED:
        answer = await run(_attempt, work, checked[0], request.request_id)
    return answer


def the_caller(view: View, caller: Caller) -> Caller:
    """A ``check`` for those who need no more than to know who asks."""
    return caller


def _attempt(work: Callable[[T], Answer], checked: T, request_id: str) -> Answer:
    try:
        with transaction.atomic():
            return work(checked)
    except (
        KeyturnError,
        IntegrityError,
        KeyServiceUnavailable,
        KeyringError,
        NotRecorded,
        DatabaseError,
    ) as error:
        return failure(error, request_id)
