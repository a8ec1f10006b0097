"""Servers that several files of tests share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.kek_servers import OpenBao


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A furnished OpenBao. Who kills it starts it again; its tests share a process (xdist_group "keks")."""
    server = OpenBao(tmp_path_factory.mktemp("bao") / "server", _free_port(), _free_port())
    try:
        server.start()
        server.furnish()
        yield server
    finally:
        server.kill()
