"""The key for this caller and instance: all the steps of a delivery, in order."""

from __future__ import annotations

from datetime import datetime

from keyvault.delivery import answer
from keyvault.delivery.answer import Answer
from keyvault.delivery.authenticate import authenticate
from keyvault.delivery.cache import View
from keyvault.delivery.choose import Choice, choose_version
from keyvault.delivery.grant import Permit, find_permit
from keyvault.delivery.limit import Tally
from keyvault.delivery.plane import Plane
from keyvault.delivery.requests import Request
from keyvault.delivery.rows import DeliveryRow
from keyvault.delivery.standing import Decided, standing
from keyvault.exceptions import not_found

WITH_KEY = 200
WITHOUT_KEY = 304


async def deliver(plane: Plane, request: Request) -> Answer:
    """Answer ``GET`` or ``HEAD`` for one key."""
    form = answer.check_format(request.query.get("format", "json"))
    return await plane.settle(request, lambda view: _decide(view, plane, request, form))


def _decide(view: View, plane: Plane, request: Request, form: str) -> Decided:
    permit, choice = choose(view, plane, request)
    caller, keys = permit.caller, view.keys
    etag = answer.etag_of(permit.key, choice, keys)
    known = knows(request.if_none_match, etag)
    # HEAD takes no key with it, and is recorded as such: the instance is alive and was told the ETag.
    bare = answer.without_key(304 if known else 200, etag) if known or request.head else None
    token, key, version = caller.token, permit.key, choice.version
    # The row but for its time and the request's id.
    fixed = (
        key.id,
        version.id,
        token.consumer_id,
        token.id,
        instance_of(request, caller.consumer),
        choice.label,
        caller.credential,
        WITH_KEY if bare is None else WITHOUT_KEY,
    )

    def again(now: datetime, request_id: str, tally: Tally) -> Decided:
        tally.count(token, now)
        row = DeliveryRow(now, *fixed, request_id)
        if bare is not None:
            return Decided(bare, row)
        secret = version.open(key.environment, keys.keks)
        return Decided(answer.deliver(key, choice, secret, form, keys), row)

    decided = again(view.now, request.request_id, request.tally)
    if not caller.repeats:
        return decided
    return decided._replace(standing=standing(view, again, (caller.expires_at, token.expires_at)))


def choose(view: View, plane: Plane, request: Request) -> tuple[Permit, Choice]:
    """The first four steps: who asks, how often, for what, and which version that is."""
    caller = authenticate(view, request, plane.claims)
    request.tally.count(caller.token, view.now)
    permit = find_permit(view, caller, request.route.service, request.route.environment)
    if permit is None:
        raise not_found()
    permit.demand("read")
    instance = instance_of(request, caller.consumer)
    return permit, choose_version(view, permit, instance, request.query.get("version"))


def instance_of(request: Request, consumer: str) -> str:
    """The instance that asks; one that names none is the consumer's only one."""
    return request.instance or consumer


def knows(if_none_match: str, etag: bytes) -> bool:
    """Whether an ``If-None-Match`` names this ETag."""
    if not if_none_match:
        return False
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag.decode() in held or held == ["*"]
