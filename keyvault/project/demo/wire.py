"""HTTP over one kept connection, as each consumer instance has it. Loopback only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from typing import Any, Final
from urllib.parse import urlsplit

SECONDS: Final = 30.0


@dataclass(frozen=True)
class Answer:
    """A status, headers with names in lower case, and a body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """The body as an object; an empty one where it is none."""
        try:
            data = json.loads(self.body)
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}


class Wire:
    """A connection to one server, opened when it is needed. For one thread."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._address, self._prefix = parts.netloc, parts.path.rstrip("/")
        self._connection: HTTPConnection | None = None

    def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send one request. Raises ``OSError`` where no whole answer comes.

        A connection that the server closed while it was idle is opened again, as every HTTP client does:
        such a request was not looked at.
        """
        if self._connection is not None:
            try:
                return self._once(method, path, headers, body)
            except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
        return self._once(method, path, headers, body)

    def send_json(
        self, method: str, path: str, data: object, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """``send`` with a JSON body."""
        head = {"Content-Type": "application/json", **(headers or {})}
        return self.send(method, path, head, json.dumps(data).encode())

    def close(self) -> None:
        """Hang up; the next request opens a new connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes | None) -> Answer:
        if self._connection is None:
            self._connection = HTTPConnection(self._address, timeout=SECONDS)
        try:
            self._connection.request(method, self._prefix + path, body, dict(headers or {}))
            response = self._connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        except OSError:
            self.close()
            raise
        except HTTPException as error:
            self.close()
            raise ConnectionError(f"no usable answer: {type(error).__name__}") from error
