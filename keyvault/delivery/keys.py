"""The key for this caller and instance: all the steps of a delivery, in order."""

from __future__ import annotations

from datetime import datetime

from keyvault.delivery import answer
from keyvault.delivery.answer import Answer
from keyvault.delivery.authenticate import Caller, authenticate
from keyvault.delivery.cache import View
from keyvault.delivery.choose import Choice, choose_version
from keyvault.delivery.grant import Permit, find_permit
from keyvault.delivery.limit import Tally
from keyvault.delivery.plane import Plane
from keyvault.delivery.requests import Request
from keyvault.delivery.rows import DeliveryRow
from keyvault.delivery.standing import Decided, Standing
from keyvault.exceptions import not_found

WITH_KEY = 200
WITHOUT_KEY = 304


async def deliver(plane: Plane, request: Request) -> Answer:
    """Answer ``GET`` or ``HEAD`` for one key."""
    form = answer.check_format(request.query.get("format", "json"))
    return await plane.settle(request, lambda view: _decide(view, plane, request, form))


def _decide(view: View, plane: Plane, request: Request, form: str) -> Decided:
    permit, choice, seated = choose(view, plane, request)
    caller, keys = permit.caller, view.keys
    etag = answer.etag_of(permit.key, choice, keys)
    known = knows(request.if_none_match, etag)
    # HEAD takes no key with it, and is recorded as such: the instance is alive and was told the ETag.
    bare = answer.without_key(304 if known else 200, etag) if known or request.head else None
    row = DeliveryRow(
        view.now,
        permit.key.id,
        choice.version.id,
        caller.token.consumer_id,
        caller.token.id,
        instance_of(request, caller.consumer),
        choice.label,
        caller.credential,
        WITH_KEY if bare is None else WITHOUT_KEY,
        request.request_id,
    )
    standing = _Given(view, caller, row, seated) if caller.repeats else None
    if bare is not None:
        return Decided(bare, row, standing)
    secret = choice.version.open(permit.key.environment, keys.keks)
    return Decided(answer.deliver(permit.key, choice, secret, form, keys), row, standing)


class _Given(Standing):
    """What a caller is given until something changes."""

    __slots__ = ("_row", "_token")

    def __init__(self, view: View, caller: Caller, row: DeliveryRow, seated: datetime | None) -> None:
        super().__init__(view, (caller.expires_at, caller.token.expires_at, seated))
        self._token = caller.token
        # But for its time and the request's id.
        self._row = row[1:-1]

    def again(self, now: datetime, request_id: str, tally: Tally) -> DeliveryRow:
        tally.owe(self._token)
        return DeliveryRow(now, *self._row, request_id)


def choose(view: View, plane: Plane, request: Request) -> tuple[Permit, Choice, datetime | None]:
    """The first five steps: who asks, how often, for what, which version that is, and which instance.

    The time is the one until which the instance need not be looked at again; None: for ever.
    """
    caller = authenticate(view, request, plane.claims)
    request.tally.count(caller.token, view.now)
    permit = find_permit(view, caller, request.route.service, request.route.environment)
    if permit is None:
        raise not_found()
    permit.demand("read")
    instance = instance_of(request, caller.consumer)
    choice = choose_version(view, permit, instance, request.query.get("version"))
    return permit, choice, plane.seats.demand(caller.token, request, view.now)


def instance_of(request: Request, consumer: str) -> str:
    """The instance that asks; one that names none is the consumer's only one."""
    return request.instance or consumer


def knows(if_none_match: str, etag: bytes) -> bool:
    """Whether an ``If-None-Match`` names this ETag."""
    if not if_none_match:
        return False
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag.decode() in held or held == ["*"]
