"""Long polling: the answer comes when it is another one than the caller has, or at the timeout.

A waiting caller costs a few objects: it is looked at again when something that its answer rests on changes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

from keyvault.delivery import answer, keys
from keyvault.delivery.answer import Answer
from keyvault.delivery.cache import View
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import Record
from keyvault.delivery.requests import ClientGone, Receive, Request
from keyvault.delivery.standing import Decided
from keyvault.exceptions import invalid

MAX_TIMEOUT = 60
DEFAULT_TIMEOUT = 30

_TIMEOUT = re.compile(r"[1-9][0-9]?", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"?([0-9a-f]{32})"?')
_SAME = Answer(304)
_ANOTHER = Answer(200)


async def watch(plane: Plane, request: Request, receive: Receive) -> Answer:
    """Wait, then deliver. Raises ``ClientGone`` when the caller hangs up first."""
    timeout = _timeout(request)
    # In these words it is asked to wait: no answer of before will do.
    request = replace(request, if_none_match=_known_etag(request), words=b"")
    answer.check_format(request.query.get("format", "json"))
    gone = asyncio.ensure_future(_hang_up(receive))
    try:
        refused = await _wait_for_another(plane, request, timeout, gone)
    finally:
        gone.cancel()
    return refused or await keys.deliver(plane, request)


def _timeout(request: Request) -> int:
    text = request.query.get("timeout", str(DEFAULT_TIMEOUT))
    if not _TIMEOUT.fullmatch(text) or int(text) > MAX_TIMEOUT:
        raise invalid("timeout", f"Must be a whole number of seconds from 1 to {MAX_TIMEOUT}.")
    return int(text)


def _known_etag(request: Request) -> str:
    """The ETag that the caller has, from the query or ``If-None-Match``; "" answers at once."""
    text = request.query.get("etag")
    if text is None:
        return request.if_none_match
    found = _ETAG.fullmatch(text)
    if found is None:
        raise invalid("etag", "Send the ETag of the last answer.")
    return f'"{found[1]}"'


async def _wait_for_another(
    plane: Plane, request: Request, seconds: int, gone: asyncio.Future[None]
) -> Answer | None:
    """Return when there is another answer, or time is up. A refusal is returned as it is."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    used: Sequence[Record] = ()

    def look(view: View) -> Decided:
        nonlocal used
        permit, choice, _ = keys.choose(view, plane, request)
        used = view.used
        etag = answer.etag_of(permit.key, choice, view.keys)
        return Decided(_SAME if keys.knows(request.if_none_match, etag) else _ANOTHER)

    while True:
        found = await plane.settle(request, look)
        if found is not _SAME:
            return None if found is _ANOTHER else found
        left = end - loop.time()
        if left <= 0 or plane.stopping.is_set():
            return None
        await plane.wait_for_change(used, left, gone)
        if gone.done():
            raise ClientGone


async def _hang_up(receive: Receive) -> None:
    """Returns when the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
