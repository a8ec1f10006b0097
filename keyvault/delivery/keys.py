"""The key for this caller and instance: all the steps of a delivery, in order."""

from __future__ import annotations

from keyvault.delivery import answer
from keyvault.delivery.answer import Answer
from keyvault.delivery.authenticate import authenticate
from keyvault.delivery.cache import View
from keyvault.delivery.choose import Choice, choose_version
from keyvault.delivery.grant import Permit, find_permit
from keyvault.delivery.limit import Tally
from keyvault.delivery.plane import Decided, Plane
from keyvault.delivery.requests import Request
from keyvault.delivery.rows import DeliveryRow
from keyvault.exceptions import not_found

WITH_KEY = 200
WITHOUT_KEY = 304


async def deliver(plane: Plane, request: Request, tally: Tally | None = None) -> Answer:
    """Answer ``GET`` or ``HEAD`` for one key. ``tally`` is given where the request was counted before."""
    form = answer.check_format(request.query.get("format", "json"))
    counted = tally or plane.tally()
    decided = await plane.settle(
        request.request_id, lambda view: _decide(view, plane, request, counted, form)
    )
    return decided.within(counted.window)


def _decide(view: View, plane: Plane, request: Request, tally: Tally, form: str) -> Decided:
    permit, choice = choose(view, plane, request, tally)
    etag = answer.etag_of(permit.key, choice, view.keys)
    known = knows(request.if_none_match, etag)
    # HEAD takes no key with it, and is recorded as such: the instance is alive and was told the ETag.
    with_key = not known and not request.head
    caller = permit.caller
    row = DeliveryRow(
        view.now,
        permit.key.id,
        choice.version.id,
        caller.token.consumer_id,
        caller.token.id,
        instance_of(request, caller.consumer),
        choice.label,
        caller.credential,
        WITH_KEY if with_key else WITHOUT_KEY,
        request.request_id,
    )
    if not with_key:
        return Decided(answer.without_key(304 if known else 200, etag), row)
    secret = choice.version.open(permit.key.environment, view.keys.keks)
    return Decided(answer.deliver(permit.key, choice, secret, form, view.keys), row)


def choose(view: View, plane: Plane, request: Request, tally: Tally) -> tuple[Permit, Choice]:
    """The first four steps: who asks, how often, for what, and which version that is."""
    caller = authenticate(view, request, plane.claims)
    tally.count(caller.token, view.now)
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
