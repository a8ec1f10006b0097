"""The ASGI front: consumer paths go to delivery on the event loop, everything else to Django on threads.

What must hold for every request is done here, before either: the size of the body, the spelling of the
path, the Host header and the request id. A request that fails here costs no thread and no database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol

import structlog

from keyvault.crypto.globs import is_canonical_path
from keyvault.errors import MAX_BODY_BYTES, envelope_bytes, request_id_from

log = structlog.get_logger("keyturn.front")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_KNOWN_HOSTS_KEPT = 1024
_MOST_DRAINED = 8 * 1024 * 1024
_DRAIN_SECONDS = 2


class Delivery(Protocol):
    """What the delivery plane offers to the front."""

    def handles(self, method: str, path: str) -> bool: ...

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class _Refused(Exception):
    """The request is answered with this code at once."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Front:
    """The application that the server calls.

    ``host_is_allowed`` gets the Host header as sent. Delivery finds the request id in
    ``scope["request_id"]``; Django gets it as the header ``X-Request-ID``.
    """

    def __init__(
        self,
        delivery: Delivery,
        django: Application,
        host_is_allowed: Callable[[str], bool],
        on_shutdown: Iterable[Callable[[], None]] = (),
    ) -> None:
        self._delivery = delivery
        self._django = django
        self._host_is_allowed = host_is_allowed
        self._on_shutdown = tuple(on_shutdown)
        self._known_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id, host, has_body = "", b"", False
        for name, content in scope["headers"]:
            if name == b"x-request-id":
                request_id = content.decode("latin-1")
            elif name == b"host":
                host = content
            elif name in (b"content-length", b"transfer-encoding"):
                has_body = True
        request_id = scope["request_id"] = request_id_from(request_id or None)
        path: str = scope["path"]
        api = path.startswith("/v1/")
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope, host, api=api)
            if has_body:
                receive = await _buffered(scope, receive)
            if api and self._delivery.handles(scope["method"], path):
                await self._delivery.application(scope, receive, watched)
            else:
                await self._django(_for_wsgi(scope, request_id), receive, watched)
        except _Refused as refusal:
            await _answer(send, refusal.code, request_id)
        except Exception:
            log.exception("unhandled", request_id=request_id, method=scope["method"], path=path)
            if not started:
                await _answer(send, "internal_error", request_id)

    def _check(self, scope: Scope, host: bytes, *, api: bool) -> None:
        if not scope["query_string"].isascii():
            raise _Refused("validation_error")
        if not api:
            # Django checks the rest and answers people with a page.
            return
        if not is_canonical_path(scope.get("raw_path") or scope["path"]):
            raise _Refused("malformed_path")
        if host and host not in self._known_hosts:
            if not self._host_is_allowed(host.decode("latin-1")):
                raise _Refused("bad_host")
            if len(self._known_hosts) < _KNOWN_HOSTS_KEPT:
                self._known_hosts.add(host)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                for hook in self._on_shutdown:
                    hook()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _buffered(scope: Scope, receive: Receive) -> Receive:
    """Read the whole body now, so that a slow sender holds no thread, and refuse one that is too large.

    Leaves a correct Content-Length in the scope: Django reads no body without it.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        part = message.get("body", b"")
        size += len(part)
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            if more:
                await _drain(receive)
            raise _Refused("payload_too_large")
        parts.append(part)
    body = b"".join(parts)
    headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
    scope["headers"] = [*headers, (b"content-length", str(size).encode())]
    handed_out = False

    async def replay() -> Message:
        nonlocal handed_out
        if handed_out:
            return await receive()
        handed_out = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _drain(receive: Receive) -> None:
    """Listen a little longer: a caller that is still sending would see a broken pipe, not our answer."""
    left, more = _MOST_DRAINED, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)


def _for_wsgi(scope: Scope, request_id: str) -> Scope:
    """The scope for a WSGI application. There ``X_Y`` and ``X-Y`` are one header: only the latter is kept."""
    headers: Headers = [
        pair for pair in scope["headers"] if b"_" not in pair[0] and pair[0] != b"x-request-id"
    ]
    headers.append((b"x-request-id", request_id.encode()))
    return {**scope, "headers": headers}


async def _answer(send: Send, code: str, request_id: str) -> None:
    status, body = envelope_bytes(code, request_id)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
