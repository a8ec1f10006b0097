"""The entrance of delivery: ASGI in, ASGI out.

``handles`` tells which paths are answered here; ``application`` answers them. ``start``, ``stop`` and
``shut_down`` mark the life of the process around them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from keyvault.delivery import keys, listing, reports, tokens, verify, workers
from keyvault.delivery.answer import Answer, always, failure, limits_of, plain
from keyvault.delivery.limit import Tally
from keyvault.delivery.plane import Plane
from keyvault.delivery.requests import (
    Asked,
    ClientGone,
    Receive,
    Request,
    Scope,
    header,
    parse,
    raw_path,
    read_body,
    words_of,
)
from keyvault.delivery.routes import ANY_METHOD, METHODS, RECORDED, Endpoint, Route, locate, route
from keyvault.delivery.watch import watch
from keyvault.errors import request_id_from
from keyvault.exceptions import KeyturnError

__all__ = ["application", "handles", "shut_down", "start", "stop"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger("keyturn.delivery")

_HANDLERS: dict[Endpoint, Callable[[Plane, Request], Awaitable[Answer]]] = {
    Endpoint.LIST: listing.list_keys,
    Endpoint.KEY: keys.deliver,
    Endpoint.REPORTS: reports.accept,
    Endpoint.ACCESS_TOKEN: tokens.mint,
    Endpoint.WHOAMI: listing.who_am_i,
    Endpoint.REVOKE_SELF: tokens.revoke_self,
    Endpoint.JWKS: tokens.public_keys,
    Endpoint.VERIFY: verify.verify,
    Endpoint.FORWARD_AUTH: verify.forward_auth,
}

_plane: Plane | None = None


def handles(path: str) -> bool:
    """Whether this path is answered by delivery, whatever the method: a wrong one gets its 405 here."""
    return route(path) is not None


async def start() -> None:
    """Make the plane of this process. The first request does it where the server does not call this."""
    _the_plane()


async def stop() -> None:
    """The server has been told to stop: those who wait for a change are answered now."""
    if _plane is not None:
        _plane.stop()


async def shut_down() -> None:
    """No request is left: finish what was begun, then let go of threads and connections."""
    global _plane
    held, _plane = _plane, None
    if held is not None:
        await held.close()
    workers.shut_down()


def _the_plane() -> Plane:
    global _plane
    if _plane is None:
        _plane = Plane()
        _plane.start()
    return _plane


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request. Every failure becomes the error envelope of the contract."""
    started = time.perf_counter()
    request_id: str = scope.get("request_id") or request_id_from(header(scope, b"x-request-id"))
    tally: Tally | None = None
    recorded = False
    try:
        plane = _plane or _the_plane()
        tally = plane.tally()
        body = await read_body(scope, receive) if scope["method"] == "POST" else b""
        words = words_of(scope, body)
        repeated = await plane.repeat(words, request_id, tally)
        if repeated is not None:
            await _send(send, repeated, tally, request_id, head=scope["method"] == "HEAD")
            return
        # For what is logged on the way to a decision.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        found = locate(raw_path(scope))
        if found is None:
            raise KeyturnError("not_found", "Not found.")
        recorded = found.endpoint in RECORDED
        answer = await _answer(plane, scope, found, receive, Asked(request_id, tally, words, body))
    except ClientGone:
        log.info("caller gone", method=scope["method"], request_id=request_id)
        return
    except Exception as error:  # the last line of defence: outsiders get a code, the log gets the rest
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = failure(error, request_id)
    await _send(send, answer, tally, request_id, head=scope["method"] == "HEAD")
    if answer.status >= 400 or not recorded:
        log.info(
            "request",
            request_id=request_id,
            method=scope["method"],
            path=scope["path"],
            status=answer.status,
            code=answer.code,
            milliseconds=round((time.perf_counter() - started) * 1000, 1),
        )


async def _answer(plane: Plane, scope: Scope, found: Route, receive: Receive, asked: Asked) -> Answer:
    if found.endpoint not in ANY_METHOD and scope["method"] not in METHODS[found.endpoint]:
        allowed = ", ".join(METHODS[found.endpoint]).encode()
        return plain("method_not_allowed", asked.request_id, ((b"allow", allowed),))
    request = parse(scope, found, asked)
    if found.endpoint is Endpoint.WATCH:
        return await watch(plane, request, receive)
    return await _HANDLERS[found.endpoint](plane, request)


async def _send(send: Send, answer: Answer, tally: Tally | None, request_id: str, *, head: bool) -> None:
    headers = [(b"x-request-id", request_id.encode()), *always(), *answer.headers]
    if tally is not None and tally.window is not None:
        headers += limits_of(tally.window)
    if answer.content_type:
        headers.append((b"content-type", answer.content_type))
    if not head and answer.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
