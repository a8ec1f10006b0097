"""The ASGI front: consumer paths go to delivery on the event loop, everything else to Django on threads.

What must hold for every request is done here, before either: the size and the pace of the body, the
spelling of the path, the Host header, the caller's address behind a proxy, and the request id. A request
that fails here costs no thread and no database. Every microsecond here is paid by every delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, Protocol

import structlog

from keyvault.crypto.globs import is_canonical_path
from keyvault.errors import MAX_BODY_BYTES, NO_PAGE, envelope_bytes, request_id_from
from keyvault.project.proxies import Proxies

log = structlog.get_logger("keyturn.front")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Hook = Callable[[], Awaitable[None] | None]
Headers = list[tuple[bytes, bytes]]

BODY_SECONDS: Final = 10.0

_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
_NOTED: Final = frozenset((b"host", b"x-request-id", *_FRAMING))
_KNOWN_HOSTS_KEPT: Final = 1024
_KNOWN_PATHS_KEPT: Final = 65_536
_LONGEST_KNOWN_PATH: Final = 256
_MOST_DRAINED: Final = 8 * 1024 * 1024
_DRAIN_SECONDS: Final = 2
# What proxies say was looked at, or is not believed. Of the rest, Django must not be led to believe any.
_HEARSAY: Final = frozenset((b"forwarded", b"x-real-ip", b"x-request-id"))
_CLOSE: Final = (b"connection", b"close")


class Delivery(Protocol):
    """What the delivery plane offers to the front."""

    def handles(self, path: str) -> bool:
        """Whether delivery answers this; the same answer every time, so the front remembers it."""

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the body stands in ``scope["body"]`` where there is one."""


class _Refused(Exception):
    """The request is answered with this code at once; ``unread``: what the caller still sends is not read."""

    def __init__(self, code: str, message: str | None = None, *, unread: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.unread = unread


class _CallerGone(Exception):
    """The connection, or what could be read of it, ended before the request did: there is nothing to do."""


class Front:
    """The application that the server calls.

    ``host_is_allowed`` gets the Host header as sent. Delivery finds the request id in
    ``scope["request_id"]``; Django gets it as the header ``X-Request-ID``. Hooks run in their order:
    ``on_startup`` before the first request, ``on_stop`` when no new connection comes any more (requests go
    on, and whoever only waits should be answered), ``on_shutdown`` after the last answer.
    """

    def __init__(
        self,
        delivery: Delivery,
        django: Application,
        host_is_allowed: Callable[[str], bool],
        *,
        proxies: Proxies | None = None,
        body_seconds: float = BODY_SECONDS,
        on_startup: Iterable[Hook] = (),
        on_stop: Iterable[Hook] = (),
        on_shutdown: Iterable[Hook] = (),
    ) -> None:
        self._delivery = delivery
        self._django = django
        self._host_is_allowed = host_is_allowed
        self._proxies = proxies
        self._body_seconds = body_seconds
        self.on_startup = list(on_startup)
        self._on_stop = tuple(on_stop)
        self._on_shutdown = tuple(on_shutdown)
        self._closing = False
        self._stopping: asyncio.Task[None] | None = None
        self._known_hosts: set[bytes] = set()
        # Paths of delivery that passed every check; most consumers ask for the same few for ever.
        self._known_paths: set[bytes] = set()
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._looks_for_late = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        request_id, host, has_body, chunked = "", b"", False, False
        for name, content in scope["headers"]:
            if name in _NOTED:
                if name == b"host":
                    # Two of them are no host that we know.
                    host = host + b"," + content if host else content
                elif name == b"x-request-id":
                    request_id = content.decode("latin-1")
                else:
                    has_body = True
                    chunked = chunked or name == b"transfer-encoding"
        request_id = scope["request_id"] = request_id_from(request_id or None)
        if self._proxies is not None:
            self._proxies.look_through(scope)
        if self._closing:
            send = _last(send)
        try:
            ours = self._check(scope, host)
            if has_body:
                # All of it now, so that a slow sender holds no thread.
                scope["body"] = await self._read_in_time(receive)
            if ours:
                await self._delivery.application(scope, receive, send)
            else:
                if has_body:
                    receive = _replay(scope, receive, chunked=chunked)
                await self._django(_for_wsgi(scope, request_id), receive, send)
        except _Refused as refusal:
            await _answer(send, refusal, request_id)
        except _CallerGone:
            log.info("caller gone", request_id=request_id, method=scope["method"])
            # A body whose framing broke looks the same to us, and whoever sent it is still there.
            await _answer(send, _Refused("validation_error", "The body broke off.", unread=True), request_id)
        except Exception:
            log.exception("unhandled", request_id=request_id, method=scope["method"], path=scope["path"])
            # Refused by the server where an answer had begun; it then cuts the connection off.
            await _answer(send, _Refused("internal_error"), request_id)

    def _check(self, scope: Scope, host: bytes) -> bool:
        """Whether delivery answers this request. Raises ``_Refused``."""
        raw: bytes | None = scope.get("raw_path")
        query: bytes = scope["query_string"]
        if host in self._known_hosts and raw in self._known_paths and query.isascii():
            return True
        if not query.isascii():
            raise _Refused("validation_error")
        path: str = scope["path"]
        if not path.startswith("/v1/"):
            # Django checks the rest and answers people with a page.
            return False
        if not is_canonical_path(raw or path):
            raise _Refused("malformed_path")
        self._check_host(host, named=scope.get("http_version") != "1.1")
        ours = self._delivery.handles(path)
        if ours and raw is not None and len(raw) <= _LONGEST_KNOWN_PATH:
            if len(self._known_paths) >= _KNOWN_PATHS_KEPT:
                self._known_paths.clear()
            self._known_paths.add(raw)
        return ours

    def _check_host(self, host: bytes, *, named: bool) -> None:
        """``named``: the protocol has another place for the name, or none. HTTP/1.1 asks for the header."""
        if host in self._known_hosts or (named and not host):
            return
        if not host or not self._host_is_allowed(host.decode("latin-1")):
            raise _Refused("bad_host")
        if len(self._known_hosts) < _KNOWN_HOSTS_KEPT:
            self._known_hosts.add(host)

    async def _read_in_time(self, receive: Receive) -> bytes:
        # One timer for all: one for each request would take longer than all of the front.
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._reading[task] = loop.time() + self._body_seconds
        if not self._looks_for_late:
            self._looks_for_late = True
            loop.call_later(self._body_seconds / 10, self._end_the_late, loop)
        try:
            return await _read(receive)
        except asyncio.CancelledError as error:
            if task not in self._late:
                raise
            task.uncancel()
            # The contract has no 408.
            raise _Refused("validation_error", "The body did not arrive in time.", unread=True) from error
        finally:
            self._late.discard(task)
            del self._reading[task]

    def _end_the_late(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = [task for task, end in self._reading.items() if end <= now]
        for task in late:
            self._late.add(task)
            task.cancel()
        self._looks_for_late = len(self._reading) > len(late)
        if self._looks_for_late:
            loop.call_later(self._body_seconds / 10, self._end_the_late, loop)

    # Life -------------------------------------------------------------------------------------------

    def last_call(self) -> None:
        """From now on callers are told, with their answers, to come back on another connection."""
        self._closing = True

    def stop(self) -> asyncio.Task[None]:
        """Run the hooks of ``on_stop``; returns what does it. May be called again."""
        self._closing = True
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(_run_all(self._on_stop))
        return self._stopping

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            for hook in self.on_startup:
                await _run(hook)
        except Exception as error:
            log.exception("startup failed")
            await send(
                {"type": "lifespan.startup.failed", "message": f"Startup failed: {type(error).__name__}"}
            )
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await _run_all(self._on_shutdown)
        await send({"type": "lifespan.shutdown.complete"})


async def _run(hook: Hook) -> None:
    done = hook()
    if isawaitable(done):
        await done


async def _run_all(hooks: Iterable[Hook]) -> None:
    """Run every hook, also after one that fails: what can still be put in order is."""
    for hook in hooks:
        try:
            await _run(hook)
        except Exception:
            log.exception("a hook failed while stopping")


async def _read(receive: Receive) -> bytes:
    """The whole body. Raises ``_Refused`` and ``_CallerGone``."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _CallerGone
        part = message.get("body", b"")
        size += len(part)
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            if more:
                await _drain(receive)
            raise _Refused("payload_too_large", unread=True)
        parts.append(part)
    return b"".join(parts)


def _replay(scope: Scope, receive: Receive, *, chunked: bool) -> Receive:
    """Hand the body out once more. A body in chunks gets a Content-Length: Django reads none without it."""
    body: bytes = scope["body"]
    if chunked:
        headers = [pair for pair in scope["headers"] if pair[0] not in _FRAMING]
        scope["headers"] = [*headers, (b"content-length", b"%d" % len(body))]
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
        pair
        for pair in scope["headers"]
        if b"_" not in pair[0] and pair[0] not in _HEARSAY and not pair[0].startswith(b"x-forwarded-")
    ]
    headers.append((b"x-request-id", request_id.encode()))
    return {**scope, "headers": headers}


def _last(send: Send) -> Send:
    """Tell the caller that this is the last answer on its connection."""

    async def saying_so(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
        await send(message)

    return saying_so


async def _answer(send: Send, refusal: _Refused, request_id: str) -> None:
    status, body = envelope_bytes(refusal.code, request_id, refusal.message)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *NO_PAGE,
    ]
    if refusal.unread:
        headers.append(_CLOSE)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
