"""The entrance of delivery: ASGI in, ASGI out.

``handles`` tells which paths are answered here; ``application`` answers them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any

import structlog

from keyvault.delivery import keys, listing, reports, tokens
from keyvault.delivery.answer import Answer, failure, plain
from keyvault.delivery.requests import (
    ClientGone,
    Receive,
    Request,
    Scope,
    canonical_path,
    header,
    parse,
    read_body,
)
from keyvault.delivery.routes import METHODS, Endpoint, route
from keyvault.delivery.watch import watch
from keyvault.delivery.workers import run, shut_down
from keyvault.errors import request_id_from
from keyvault.exceptions import KeyturnError

__all__ = ["application", "handles", "shut_down"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger("keyturn.delivery")

_HANDLERS: dict[Endpoint, Callable[[Request], Answer]] = {
    Endpoint.LIST: listing.list_keys,
    Endpoint.KEY: keys.deliver,
    Endpoint.REPORTS: reports.accept,
    Endpoint.ACCESS_TOKEN: tokens.mint,
    Endpoint.WHOAMI: listing.who_am_i,
    Endpoint.REVOKE_SELF: tokens.revoke_self,
    Endpoint.JWKS: tokens.public_keys,
}


def handles(method: str, path: str) -> bool:
    """Whether this path is answered by delivery, whatever the method: a wrong one gets its 405 here."""
    return route(path) is not None


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request. Every failure becomes the error envelope of the contract."""
    started = time.perf_counter()
    request_id: str = scope.get("request_id") or request_id_from(header(scope, b"x-request-id"))
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    try:
        answer = await _answer(scope, receive, request_id)
    except ClientGone:
        log.info("caller gone", method=scope["method"])
        return
    except Exception as error:  # the last line of defence: outsiders get a code, the log gets the rest
        answer = failure(error, request_id)
    await _send(send, answer, request_id, head=scope["method"] == "HEAD")
    log.info(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=answer.status,
        code=answer.code,
        milliseconds=round((time.perf_counter() - started) * 1000, 1),
    )


async def _answer(scope: Scope, receive: Receive, request_id: str) -> Answer:
    path = canonical_path(scope)
    found = route(path)
    if found is None:
        raise KeyturnError("not_found", "Not found.")
    allowed = METHODS[found.endpoint]
    if scope["method"] not in allowed:
        return plain("method_not_allowed", request_id, (("Allow", ", ".join(allowed)),))
    request = parse(scope, found, path, request_id)
    if scope["method"] == "POST":
        request = replace(request, body=await read_body(scope, found.endpoint, receive))
    if found.endpoint is Endpoint.WATCH:
        return await watch(request, receive)
    return await run(_HANDLERS[found.endpoint], request)


async def _send(send: Send, answer: Answer, request_id: str, *, head: bool) -> None:
    headers = [
        (b"x-request-id", request_id.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *((name.lower().encode(), text.encode()) for name, text in answer.headers),
    ]
    if answer.content_type:
        headers.append((b"content-type", answer.content_type.encode()))
    if not head and answer.status not in (204, 304):
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
