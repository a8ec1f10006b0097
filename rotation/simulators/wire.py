"""HTTP/1.1 with keep-alive on loopback: requests in, answers out, nothing about providers."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qsl, urlsplit

MAX_BODY: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; `path` has no query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object] | None:
        """The body as a JSON object, or None."""
        try:
            data = json.loads(self.body)
        except ValueError:
            return None
        return data if isinstance(data, dict) else None


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """No answer: the connection is closed after `after` seconds."""

    after: float = 0.0


Answer = Response | Cut


def json_response(status: int, data: object, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(status, json.dumps(data).encode(), headers=headers or {})


class Server(ThreadingHTTPServer):
    """Calls `respond` for every request, each connection in its own thread."""

    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, host: str, port: int, respond: Callable[[Request], Answer]) -> None:
        self.respond = respond
        self.stopping = threading.Event()
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is everyday life here; anything else is printed by the parent class."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server_version = "simulator"
    sys_version = ""

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._write(json_response(413, {"error": "payload_too_large"}))
            return
        url = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=url.path,
            query=dict(parse_qsl(url.query)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(length)),
        )
        answer = self.server.respond(request)
        if isinstance(answer, Cut):
            self.server.stopping.wait(answer.after)
            self.close_connection = True
            return
        self._write(answer)

    def _write(self, answer: Response) -> None:
        self.send_response(answer.status)
        if answer.status != 204:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        # Head and body leave in one piece: two small writes would wait for each other's acknowledgement.
        if self.command != "HEAD" and answer.status != 204:
            self._headers_buffer.append(b"\r\n" + answer.body)  # type: ignore[attr-defined]
            self.flush_headers()
        else:
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: tests and the demo read counters instead."""

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve
