"""The database is away: a server of its own, so that nobody else is disturbed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keyvault.crypto.tokens import TokenKind, mint
from tests.api.conftest import Server, start_server, stop_server
from tests.api.wire import exchange


@pytest.mark.parametrize(
    "url",
    ["postgres://nobody@127.0.0.1:1/nothing", "sqlite:////nonexistent/folder/db.sqlite3"],
    ids=["tcp", "file"],
)
def test_no_database_is_503_and_worth_a_retry(server: Server, tmp_path: Path, url: str) -> None:
    shutil.copy(server.keyring, tmp_path / "keyring.json")
    token = mint(TokenKind.CONSUMER, "prod").expose()
    environment = {"KEYTURN_DATA": str(tmp_path), "DATABASE_URL": url, "KEYTURN_DATABASE_POOL": "0"}
    process, port = start_server(tmp_path, environment)
    try:
        for method, path in (
            ("GET", "/v1/keys/a/prod/"),
            ("GET", "/v1/keys/"),
            ("GET", "/v1/keys/a/prod/watch/"),
            ("GET", "/v1/auth/whoami/"),
            ("POST", "/v1/auth/access-token/"),
        ):
            body = b"{}" if method == "POST" else None
            reply = exchange(port, method, path, [("X-API-Key", token)], body)
            assert (reply.status, reply.code) == (503, "database_unavailable")
            assert reply.headers["retry-after"] == "5"
    finally:
        stop_server(process)
    assert token.encode() not in (tmp_path / "server.log").read_bytes()
