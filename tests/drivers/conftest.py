"""Servers on loopback that answer what a test tells them to."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from keyvault.presets import PROVIDER_PRESETS
from rotation.drivers.base import ProbeSpec, ProviderSpec
from rotation.simulators import SIMULATORS, RunningSimulator, management_config, running
from tests.drivers.calls import Start


@dataclass
class RawServer:
    """Hands every connection to `talk` and remembers what came in."""

    host_port: str
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host_port}"

    @property
    def port(self) -> int:
        return int(self.host_port.rpartition(":")[2])


Talk = Callable[[socket.socket, threading.Event], None]


@pytest.fixture
def raw_server() -> Iterator[Callable[[Talk], RawServer]]:
    """Start a TCP server: `raw_server(talk)`, where `talk(connection, stopping)` answers one connection."""
    stopping = threading.Event()
    listeners: list[socket.socket] = []

    def start(talk: Talk) -> RawServer:
        listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        listeners.append(listener)
        server = RawServer(f"127.0.0.1:{listener.getsockname()[1]}")

        def serve(connection: socket.socket) -> None:
            # A client that gives up in the middle is what half of the tests are about.
            with connection, suppress(OSError):
                server.requests.append(read_request(connection))
                talk(connection, stopping)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                server.connections += 1
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return server

    yield start
    stopping.set()
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def read_request(connection: socket.socket) -> bytes:
    """The head and body of one request; what came before the client went, if it goes."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece
    return head + b"\r\n\r\n" + body


def answer(status: int, body: bytes | str | dict[str, Any] = b"", **headers: str) -> bytes:
    """One HTTP answer as bytes; underscores in header names become dashes."""
    if isinstance(body, dict):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    fields = {
        "Content-Length": str(len(content)),
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    head = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content


@pytest.fixture
def answering(raw_server: Callable[[Talk], RawServer]) -> Callable[..., RawServer]:
    """Start a server that gives the same answer to everybody: `answering(401, {...}, Retry_After="3")`."""

    def start(status: int, body: bytes | str | dict[str, Any] = b"", **headers: str) -> RawServer:
        return raw_server(lambda connection, _: connection.sendall(answer(status, body, **headers)))

    return start


@pytest.fixture(params=sorted(SIMULATORS))
def simulator(request: pytest.FixtureRequest) -> Iterator[RunningSimulator]:
    """Each of the four simulators in turn."""
    with running(request.param) as sim:
        yield sim


def provider(sim: RunningSimulator, **changes: Any) -> ProviderSpec:
    """A simulator as the drivers see it, from the preset of its provider."""
    preset = next(preset for preset in PROVIDER_PRESETS if preset.slug == sim.control.slug)
    values: dict[str, Any] = {
        "slug": preset.slug,
        "base_url": sim.base_url,
        "auth_header": preset.auth_header,
        "auth_scheme": preset.auth_scheme,
        "probe": ProbeSpec.from_json(preset.probe),
        "errors": preset.errors,
        "config": management_config() if sim.control.has_management else {},
        "admin_secret": sim.admin_secret if sim.control.has_management else None,
        "key_affine": preset.key_affine,
        "allow_hosts": frozenset({sim.host_port}),
    }
    return ProviderSpec(**{**values, **changes})


@pytest.fixture
def spec_of() -> Callable[..., ProviderSpec]:
    """`spec_of(simulator, **changes)`."""
    return provider


@pytest.fixture
def spec_for() -> Callable[..., ProviderSpec]:
    """`spec_for(server, **changes)`: a provider behind a raw server, managed as the simulators are."""

    def build(server: RawServer, **changes: Any) -> ProviderSpec:
        values: dict[str, Any] = {
            "slug": "example",
            "base_url": server.url,
            "auth_header": "X-API-Key",
            "probe": ProbeSpec("GET", "/check", accepted=(200, 404)),
            "config": management_config(),
            "admin_secret": Secret("adm-0e1b7c55d9aa4f62"),
            "allow_hosts": frozenset({server.host_port}),
        }
        return ProviderSpec(**{**values, **changes})

    return build


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(kind)`."""
    opened = []

    def begin(kind: str) -> RunningSimulator:
        context = running(kind)
        opened.append(context)
        return context.__enter__()

    yield begin
    for context in opened:
        context.__exit__(None, None, None)
