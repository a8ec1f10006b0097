"""The entrance of delivery: ASGI in, ASGI out.

``handles`` tells which paths are answered here; ``application`` answers them. ``start``, ``stop`` and
``shut_down`` mark the life of the process around them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any

import structlog

from keyvault.delivery import keys, listing, reports, tokens, verify, workers
from keyvault.delivery.answer import Answer, failure, plain
from keyvault.delivery.plane import Plane
from keyvault.delivery.requests import (
    ClientGone,
    Receive,
    Request,
    Scope,
    header,
    parse,
    raw_path,
    read_body,
)
from keyvault.delivery.routes import ANY_METHOD, METHODS, Endpoint, Route, locate, route
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
# Recorded in the database, each of them: a line in the log would say the same, and cost more than the answer.
_RECORDED = frozenset({Endpoint.KEY, Endpoint.WATCH, Endpoint.VERIFY, Endpoint.FORWARD_AUTH})
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

_plane: Plane | None = None


def handles(method: str, path: str) -> bool:
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
    structlog.contextvars.bind_contextvars(request_id=request_id)
    found: Route | None = None
    try:
        found = locate(raw_path(scope))
        answer = await _answer(scope, found, receive, request_id)
    except ClientGone:
        log.info("caller gone", method=scope["method"])
        return
    except Exception as error:  # the last line of defence: outsiders get a code, the log gets the rest
        answer = failure(error, request_id)
    await _send(send, answer, request_id, head=scope["method"] == "HEAD")
    if answer.status >= 400 or found is None or found.endpoint not in _RECORDED:
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=answer.status,
            code=answer.code,
            milliseconds=round((time.perf_counter() - started) * 1000, 1),
        )


async def _answer(scope: Scope, found: Route | None, receive: Receive, request_id: str) -> Answer:
    if found is None:
        raise KeyturnError("not_found", "Not found.")
    endpoint = found.endpoint
    if endpoint not in ANY_METHOD and scope["method"] not in METHODS[endpoint]:
        return plain("method_not_allowed", request_id, ((b"allow", ", ".join(METHODS[endpoint]).encode()),))
    request = parse(scope, found, request_id)
    if scope["method"] == "POST" and endpoint not in ANY_METHOD:
        request = replace(request, body=await read_body(scope, endpoint, receive))
    if endpoint is Endpoint.WATCH:
        return await watch(_the_plane(), request, receive)
    return await _HANDLERS[endpoint](_the_plane(), request)


async def _send(send: Send, answer: Answer, request_id: str, *, head: bool) -> None:
    headers = [(b"x-request-id", request_id.encode()), *_ALWAYS, *answer.headers]
    if answer.content_type:
        headers.append((b"content-type", answer.content_type))
    if not head and answer.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
