"""What only a real server shows: headers sent twice, raw paths, bodies without a length, many at once"""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from keyvault import clock
from keyvault.domain import OrganisationRole
from keyvault.models import AuditEvent, Team, User
from keyvault.services import people
from tests.api.conftest import Server
from tests.api.management.world import unique
from tests.api.wire import HUNG_UP, Reply

pytestmark = pytest.mark.serial

Send = Callable[..., Reply]


@pytest.fixture
def token(installed: Server) -> str:
    """A fresh administrator of the server."""
    now = clock.now()
    user = User.objects.create(username=unique("wire-admin"), organisation_role=OrganisationRole.ADMIN)
    _, secret = people.create_user_token(user, expires_at=now + timedelta(hours=1), now=now)
    return secret.expose()


def team() -> str:
    return unique("wire-team")


class TestHeaders:
    def test_a_header_sent_twice_is_ambiguous(self, installed: Server, token: str) -> None:
        key, bearer = ("X-API-Key", token), ("Authorization", f"Bearer {token}")
        assert installed.send("GET", "/v1/teams/", key).status == 200
        assert installed.send("GET", "/v1/teams/", bearer).status == 200
        for headers in ((key, key), (bearer, bearer), (key, bearer), (key, ("x-api-key", token))):
            assert installed.send("GET", "/v1/teams/", *headers).code == "ambiguous_credentials"

    def test_a_post_needs_no_cookie_and_no_origin(self, installed: Server, token: str) -> None:
        body = f'{{"slug": "{team()}"}}'.encode()
        answer = installed.send(
            "POST", "/v1/teams/", ("X-API-Key", token), ("Origin", "https://evil.example.com"), body=body
        )
        assert answer.status == 201
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["/v1/teams/a%2Fb/", "/v1/teams/%2e%2e/", "/v1//teams/", "/v1/teams/../"]
    )
    def test_two_spellings_are_refused(self, installed: Server, token: str, path: str) -> None:
        assert installed.send("GET", path, ("X-API-Key", token)).code == "malformed_path"

    def test_consumers_and_managers_share_the_prefix_of_a_key(self, installed: Server, token: str) -> None:
        unknown = installed.send("GET", "/v1/keys/nothing/dev/versions/", ("X-API-Key", token))
        assert unknown.code == "not_found"
        assert installed.send("GET", "/v1/rotations/", ("X-API-Key", token)).json["next_cursor"] is None

    def test_the_document_and_its_page(self, installed: Server) -> None:
        assert "/v1/keys/" in installed.send("GET", "/v1/schema/").json["paths"]
        page = installed.send("GET", "/v1/docs/")
        assert page.headers["content-type"].startswith("text/html")
        assert b"/v1/rotations/" in page.body


class TestBodies:
    def test_a_body_in_chunks_has_the_same_limit(self, installed: Server, token: str) -> None:
        slug = team()
        small = f'{{"slug": "{slug}"}}'.encode()
        assert b" 201 " in in_chunks(installed, token, [small[:5], small[5:]])
        assert Team.objects.filter(slug=slug).exists()
        assert b" 413 " in in_chunks(installed, token, [b" " * 8_192] * 20)

    def test_a_gzip_bomb_is_not_opened(self, installed: Server, token: str) -> None:
        answer = installed.send(
            "POST", "/v1/teams/", ("X-API-Key", token), ("Content-Encoding", "gzip"), body=b"\x1f\x8b"
        )
        assert answer.code == "unsupported_media_type"


def test_twins_across_processes_make_one_team(installed: Server, token: str) -> None:
    slug = team()
    body = f'{{"slug": "{slug}"}}'.encode()
    headers = (("X-API-Key", token), ("Idempotency-Key", slug))
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda _: installed.send("POST", "/v1/teams/", *headers, body=body), range(24))
        )
    assert {answer.status for answer in answers} <= {201, 409}
    assert {answer.code for answer in answers if answer.status == 409} <= {"idempotency_in_flight"}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1
    assert AuditEvent.objects.filter(name="team:created", details__team=slug).count() == 1


def in_chunks(server: Server, token: str, chunks: list[bytes]) -> bytes:
    """The status line of a POST whose body comes in chunks, without Content-Length."""
    head = (
        f"POST /v1/teams/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nX-API-Key: {token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    body = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with suppress(*HUNG_UP):
            connection.sendall(head.encode() + body)
        return connection.makefile("rb").readline()
