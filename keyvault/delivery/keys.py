"""The key for this caller and instance: all the steps of a delivery, in order."""

from __future__ import annotations

from datetime import datetime

from keyvault import clock
from keyvault.delivery import answer
from keyvault.delivery.answer import Answer
from keyvault.delivery.authenticate import Caller, authenticate
from keyvault.delivery.choose import Choice, choose_version
from keyvault.delivery.grant import Permit, find_permit
from keyvault.delivery.limit import Window, count_request, counted
from keyvault.delivery.open import open_choice
from keyvault.delivery.record import WITH_KEY, WITHOUT_KEY, record_answer
from keyvault.delivery.requests import Request
from keyvault.exceptions import not_found


def deliver(request: Request, *, window: Window | None = None) -> Answer:
    """Answer ``GET`` or ``HEAD`` for one key. ``window`` is given where the request was counted before."""
    form = answer.check_format(request.query.get("format", "json"))
    now = clock.now()
    caller = authenticate(request, now)
    permit = find_permit(caller, request.route.service, request.route.environment, now)
    return counted(caller, request.request_id, now, lambda: _deliver(request, permit, form), window=window)


def _deliver(request: Request, permit: Permit | None, form: str) -> Answer:
    choice, permit = _choose(request, permit)
    known = knows(request.if_none_match, choice.etag)
    # HEAD takes no key with it, and is recorded as such: the instance is alive and was told the ETag.
    with_key = not known and not request.head
    secret = open_choice(permit.key, choice) if with_key else None
    record_answer(
        permit,
        choice,
        instance=instance_of(request, permit.caller),
        status=WITH_KEY if with_key else WITHOUT_KEY,
        request_id=request.request_id,
    )
    if secret is None:
        return answer.without_key(choice, 304 if known else 200)
    return answer.deliver(permit.key, choice, secret, form)


def _choose(request: Request, permit: Permit | None) -> tuple[Choice, Permit]:
    if permit is None:
        raise not_found()
    permit.demand("read")
    wanted = request.query.get("version")
    return choose_version(permit, instance_of(request, permit.caller), wanted), permit


def instance_of(request: Request, caller: Caller) -> str:
    """The instance that asks; one that names none is the consumer's only one."""
    return request.instance or caller.consumer.slug


def knows(if_none_match: str, etag: str) -> bool:
    """Whether an ``If-None-Match`` names this ETag."""
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in held or held == ["*"]


# For those who wait --------------------------------------------------------------------------------


def admit(request: Request) -> Window:
    """Authenticate and count a request that is going to wait."""
    answer.check_format(request.query.get("format", "json"))
    now = clock.now()
    return count_request(authenticate(request, now), now)


def peek(request: Request) -> str:
    """The ETag that a delivery would carry now. Reads only: not counted, not recorded, nothing opened."""
    now: datetime = clock.now()
    caller = authenticate(request, now)
    permit = find_permit(caller, request.route.service, request.route.environment, now)
    return _choose(request, permit)[0].etag
