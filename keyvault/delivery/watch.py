"""Long polling: the answer comes when it is another one than the caller has, or at the timeout.

A waiting caller costs one short look every half second and holds no thread in between.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from keyvault.delivery import keys
from keyvault.delivery.answer import Answer, plain
from keyvault.delivery.requests import ClientGone, Receive, Request
from keyvault.delivery.workers import run
from keyvault.exceptions import invalid

POLL_SECONDS = 0.5
MAX_TIMEOUT = 60
DEFAULT_TIMEOUT = 30

_TIMEOUT = re.compile(r"[1-9][0-9]?", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"?([0-9a-f]{32})"?')


async def watch(request: Request, receive: Receive) -> Answer:
    """Wait, then deliver. Raises ``ClientGone`` when the caller hangs up first."""
    timeout, known = _timeout(request), _known_etag(request)
    window = await run(keys.admit, request)
    request = replace(request, if_none_match=known)
    if window.exceeded:
        return plain("rate_limited", request.request_id).adding(window.headers)
    gone = asyncio.ensure_future(_hang_up(receive))
    try:
        await _wait_for_change(request, known, timeout, gone)
    finally:
        gone.cancel()
    return await run(keys.deliver, request, window=window)


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


async def _wait_for_change(request: Request, known: str, seconds: int, gone: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while known and keys.knows(known, await run(keys.peek, request)):
        left = end - loop.time()
        if left <= 0:
            return
        await asyncio.wait({gone}, timeout=min(POLL_SECONDS, left))
        if gone.done():
            raise ClientGone


async def _hang_up(receive: Receive) -> None:
    """Returns when the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
