"""HTTP without a clever client: headers twice, paths as they are, one connection a request."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

# Who refuses a request need not read all of it: the answer may stand there, and the sending fail.
HUNG_UP = (BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True)
class Reply:
    """An answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def code(self) -> str:
        return str(self.error["code"])


def exchange(
    port: int,
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]],
    body: bytes | None,
    host: str = "",
) -> Reply:
    """Send one request to 127.0.0.1 and read the whole answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or f"127.0.0.1:{port}")
        names = {name.lower() for name, _ in headers}
        if body is not None and "content-type" not in names:
            connection.putheader("Content-Type", "application/json")
        if body is not None and "content-length" not in names:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers:
            connection.putheader(name, value.encode("latin-1"))
        with suppress(*HUNG_UP):
            connection.endheaders(body)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def raw(port: int, data: bytes, *, method: str = "GET") -> Reply:
    """Send these bytes to 127.0.0.1, as they are, and read one answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(*HUNG_UP):
            connection.sendall(data)
        response = HTTPResponse(connection, method=method)
        response.begin()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
