"""Servers that several files of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyvault.services import inserting
from tests.integration.furniture import PATIENCE
from tests.integration.kek_servers import OpenBao
from tests.integration.processes import free_port


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for those who insert deliveries gives them the time that a busy machine takes."""
    monkeypatch.setattr(inserting, "MOST_WAITED", PATIENCE)


@pytest.fixture
def patient_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers of KEKs may answer as late as a busy machine lets them."""
    for kind in ("transit", "kms", "pkcs11"):
        monkeypatch.setattr(f"keyvault.crypto.remote_{kind}.PATIENCE", PATIENCE)


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A furnished OpenBao. Who kills it starts it again; its tests share a process (xdist_group "keks")."""
    server = OpenBao(tmp_path_factory.mktemp("bao") / "server", free_port(), free_port())
    try:
        server.start()
        server.furnish()
        yield server
    finally:
        server.kill()
