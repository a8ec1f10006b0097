"""HTTP/1.1 on a bare connection, for tests that must see exactly what a server does to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class End(Enum):
    """How an exchange ended."""

    WHOLE = "a whole answer"
    REFUSED = "no connection"
    NOTHING = "the connection ended before any byte of an answer"
    TRUNCATED = "the connection ended within an answer"


@dataclass
class Exchange:
    """One request and what came of it. ``last`` says that the server announced to close."""

    end: End
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def last(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Connection:
    """One connection to 127.0.0.1, for one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, *, read_ahead: int = 65536) -> bool:
        """Connect. Of an answer that nobody asks for, about twice ``read_ahead`` bytes are taken."""
        try:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=read_ahead
            )
        except OSError:
            return False
        return True

    async def send(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def ask(
        self,
        path: str,
        *,
        request_id: str = "",
        method: str = "GET",
        body: bytes = b"",
        headers: Sequence[str] = (),
    ) -> Exchange:
        """Send one request and read its answer; connects first where that is needed."""
        if self._writer is None and not await self.open():
            return Exchange(End.REFUSED)
        try:
            data = request(path, request_id=request_id, method=method, body=body, headers=headers)
            await self.send(data)
        except OSError:
            await self.close()
            return Exchange(End.NOTHING)
        return await self.answer()

    async def answer(self) -> Exchange:
        """Read one answer. The connection is closed where the server has ended it or says that it will."""
        assert self._reader is not None
        read = b""
        try:
            read = await self._reader.readuntil(b"\r\n\r\n")
            exchange = _parse(read)
            exchange.body = await self._reader.readexactly(int(exchange.headers.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            exchange = Exchange(End.TRUNCATED if read or error.partial else End.NOTHING)
        except OSError:
            exchange = Exchange(End.TRUNCATED if read else End.NOTHING)
        if exchange.end is not End.WHOLE or exchange.last:
            await self.close()
        return exchange

    async def ended(self) -> bytes:
        """Read until the server ends the connection; returns what came before."""
        assert self._reader is not None
        read = b""
        with suppress(OSError):
            while piece := await self._reader.read(65536):
                read += piece
        await self.close()
        return read

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            with suppress(OSError):  # how it ended has been told already
                await self._writer.wait_closed()
        self._reader = self._writer = None


async def ask_once(port: int, path: str, **request: Any) -> Exchange:
    """Ask on a connection of its own."""
    connection = Connection(port)
    exchange = await connection.ask(path, **request)
    await connection.close()
    return exchange


def request(
    path: str, *, request_id: str = "", method: str = "GET", body: bytes = b"", headers: Sequence[str] = ()
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *headers]
    lines += [f"x-request-id: {request_id}"] if request_id else []
    lines += [f"content-length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def _parse(head: bytes) -> Exchange:
    status_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): text.strip() for name, _, text in pairs}
    return Exchange(End.WHOLE, int(status_line.split(" ")[1]), headers)
