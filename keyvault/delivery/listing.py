"""What a caller may read, and who it is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from keyvault import integrity
from keyvault.delivery.admission import admitted, the_caller
from keyvault.delivery.answer import Answer, as_json, stamp
from keyvault.delivery.authenticate import Caller
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import as_uuid
from keyvault.delivery.requests import Request
from keyvault.exceptions import invalid
from keyvault.models import Grant, Key
from keyvault.models.base import SLUG

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_BATCH = 200
_LIMIT = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_SLUG = re.compile(SLUG)


async def list_keys(plane: Plane, request: Request) -> Answer:
    """Keys that this caller may read, by service, without secrets."""
    limit, after = _limit(request), _after(request)
    return await admitted(plane, request, the_caller, lambda caller: _page(caller, limit, after))


def _limit(request: Request) -> int:
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LIMIT:
        raise invalid("limit", f"Must be a whole number from 1 to {MAX_LIMIT}.")
    return int(text)


def _after(request: Request) -> str:
    """The service that the last page ended with; the cursor is opaque to callers."""
    cursor = request.query.get("cursor")
    if cursor is None:
        return ""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        service = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        service = ""
    if not _SLUG.fullmatch(service):
        raise invalid("cursor", "Send the next_cursor of the page before.")
    return service


def _cursor(service: str) -> str:
    return base64.urlsafe_b64encode(service.encode()).rstrip(b"=").decode()


def _page(caller: Caller, limit: int, after: str) -> Answer:
    items: list[dict[str, object]] = []
    cursor = None
    for grant, key in _readable(caller, after):
        if len(items) == limit:
            cursor = _cursor(str(items[-1]["service"]))
            break
        items.append(_item(grant, key))
    return as_json(200, {"items": items, "next_cursor": cursor})


def _item(grant: Grant, key: Key) -> dict[str, object]:
    return {
        "service": key.service.slug,
        "environment": key.environment.slug,
        "provider": key.service.provider.slug,
        "verbs": grant.verbs,
        "weight": key.weight if key.pending_id else None,
    }


def grants_of(caller: Caller, after: str = "") -> Iterator[Grant]:
    """The caller's grants in its environment, by service, checked, those first that come after ``after``."""
    while True:
        batch = list(
            Grant.objects.select_related("service", "environment")
            .filter(
                consumer_id=as_uuid(caller.token.consumer_id),
                environment_id=as_uuid(caller.token.environment_id),
                service__slug__gt=after,
            )
            .order_by("service__slug")[:_BATCH]
        )
        for grant in batch:
            integrity.verify(grant)
            yield grant
        if len(batch) < _BATCH:
            return
        after = batch[-1].service.slug


def _readable(caller: Caller, after: str) -> Iterator[tuple[Grant, Key]]:
    found: dict[object, Grant] = {}
    for grant in grants_of(caller, after):
        path = f"/v1/keys/{grant.service.slug}/{grant.environment.slug}/"
        if "read" in grant.verbs and caller.covers(path):
            found[grant.service_id] = grant
    keys = (
        Key.objects.select_related("service__provider", "environment")
        .filter(environment_id=as_uuid(caller.token.environment_id), service_id__in=list(found))
        .order_by("service__slug")
    )
    for key in keys:
        integrity.verify(key)
        yield found[key.service_id], key


async def who_am_i(plane: Plane, request: Request) -> Answer:
    """The caller as we see it: consumer, environment, expiry and grants."""
    return await admitted(plane, request, the_caller, _told)


def _told(caller: Caller) -> Answer:
    token = caller.token
    grants = [
        {"service": grant.service.slug, "environment": grant.environment.slug, "verbs": grant.verbs}
        for grant in grants_of(caller)
    ]
    body = {
        "consumer": caller.consumer,
        "environment": caller.environment,
        "credential": caller.credential,
        "token": {"id": str(as_uuid(token.id)), "hint": token.hint, "expires_at": stamp(token.expires_at)},
        "expires_at": stamp(caller.expires_at),
        "paths": None if caller.paths is None else [glob.text for glob in caller.paths],
        "rate_limit": f"{token.rate_per_minute}/min",
        "instance_limit": token.instance_limit,
        "grants": grants,
    }
    return as_json(200, body)
