"""A real nginx asks Keyturn about every request, configured by the very text of docs/verification.md"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pytest_django import DjangoDbBlocker

from keyvault import clock, verifiers
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.services import keys
from tests.api.conftest import Server, _pointed_at, serving
from tests.api.delivery.issued import Issued, issue
from tests.api.wire import Reply, exchange
from tests.integration.processes import end, start, wait_for

pytestmark = pytest.mark.serial

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "verification.md"
LIMIT = 60
MISSING = "nginx is not installed on this machine"


def snippet(language: str) -> str:
    """The only block of this language in the document."""
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(found)


class Backend(ThreadingHTTPServer):
    """The service behind the gateway; it keeps every request that reaches it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.seen: list[tuple[str, list[tuple[str, str]], bytes]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def told(self) -> dict[str, str]:
        """What the gateway added to the last request."""
        _, headers, _ = self.seen[-1]
        return {name.lower(): text for name, text in headers if "keyturn" in name.lower()}


class _Answering(BaseHTTPRequestHandler):
    server: Backend

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((f"{self.command} {self.path}", self.headers.items(), body))
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


class Gateway:
    """nginx on 127.0.0.1 in front of the backend."""

    def __init__(self, port: int, backend: Backend) -> None:
        self.port = port
        self.backend = backend

    def send(self, *headers: tuple[str, str], path: str = "/", body: bytes | None = None) -> Reply:
        return exchange(self.port, "GET" if body is None else "POST", path, headers, body)


def program() -> str:
    """Where nginx is. Administrators' programs are not on everybody's path."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


def configured(folder: Path, ports: dict[str, int], service: str) -> str:
    """The snippet of the document, between what every nginx has around it."""
    text = snippet("nginx")
    places = {f"127.0.0.1:{port}": f"127.0.0.1:{ports[port]}" for port in ports}
    for old, new in {**places, "service=image-api&": f"service={service}&"}.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    # Started by root, its workers would be somebody else, who may not enter this folder.
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    return f"""
        {user}
        daemon off;
        pid {folder / "nginx.pid"};
        events {{ worker_connections 1024; }}
        http {{
            access_log {folder / "access.log"};
            {folders}
            {text}
        }}
    """


@contextmanager
def gateway_to(folder: Path, port: int, keyturn: int, backend: Backend, service: str) -> Iterator[Gateway]:
    nginx = program()
    ports = {"8000": keyturn, "9000": backend.port, "8080": port}
    (folder / "nginx.conf").write_text(configured(folder, ports, service), "utf-8")
    log = folder / "nginx.log"
    process = start([nginx, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"], os.environ, log)
    try:
        wait_for(lambda: process.poll() is not None or listens(port), "nginx listens")
        assert process.poll() is None, log.read_text("utf-8")
        yield Gateway(port, backend)
    finally:
        end(process)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def keyturn(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("behind-nginx"),
        django_db_blocker,
        ALLOWED_HOSTS="127.0.0.1,keys.example.org",
        KEYTURN_ISSUED_KEY_RATE=str(LIMIT),
    ) as started:
        yield started


@pytest.fixture
def issued(keyturn: Server, django_db_blocker: DjangoDbBlocker) -> Iterator[Issued]:
    with django_db_blocker.unblock(), _pointed_at(keyturn.database, keyturn.keyring):
        yield issue(keyturn)


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def gateway(
    tmp_path: Path, free_port: int, keyturn: Server, issued: Issued, backend: Backend
) -> Iterator[Gateway]:
    with gateway_to(tmp_path, free_port, keyturn.port, backend, issued.world.service.slug) as started:
        yield started


class TestPasses:
    @pytest.mark.parametrize(
        ("name", "form"),
        [("X-API-Key", "{}"), ("Authorization", "Bearer {}"), ("authorization", "Token {}")],
    )
    def test_a_good_key(self, gateway: Gateway, issued: Issued, name: str, form: str) -> None:
        reply = gateway.send((name, form.format(issued.key)), path="/images/7?size=2")
        assert (reply.status, reply.body) == (200, b"hello")
        (request, headers, _) = gateway.backend.seen[0]
        assert request == "GET /images/7?size=2"
        assert gateway.backend.told() == {
            "x-keyturn-service": issued.world.service.slug,
            "x-keyturn-environment": "prod",
            "x-keyturn-version": "1",
        }
        # The key itself goes no further, in no header.
        assert issued.key not in repr(headers)

    def test_both_versions_while_one_replaces_the_other(self, gateway: Gateway, issued: Issued) -> None:
        for key, number in ((issued.key, "1"), (issued.offer(), "2")):
            assert gateway.send(("X-API-Key", key)).status == 200
            assert gateway.backend.told()["x-keyturn-version"] == number

    def test_what_a_client_claims_does_not_get_through(self, gateway: Gateway, issued: Issued) -> None:
        reply = gateway.send(
            ("X-API-Key", issued.key),
            ("X-Keyturn-Service", "forged"),
            ("X-Keyturn-Service", "forged again"),
            ("x-keyturn-environment", "forged"),
            ("X_Keyturn_Service", "forged"),
            ("X-Keyturn-Version", "999"),
        )
        assert reply.status == 200
        _, headers, _ = gateway.backend.seen[0]
        assert "forged" not in repr(headers)
        assert sorted(gateway.backend.told().values()) == sorted(["1", "prod", issued.world.service.slug])

    def test_bodies_go_to_the_service_only(self, gateway: Gateway, issued: Issued) -> None:
        body = os.urandom(256 * 1024)
        kind = ("Content-Type", "image/png")
        assert gateway.send(("X-API-Key", issued.key), kind, body=body).status == 200
        assert gateway.backend.seen[0][2] == body
        # Had Keyturn been sent it, it would have said this.
        direct = issued.world.server.send(
            "POST", "/v1/forward-auth/", ("X-API-Key", issued.key), kind, body=body
        )
        assert direct.status == 413

    def test_fifty_at_once(self, gateway: Gateway, issued: Issued) -> None:
        with ThreadPoolExecutor(50) as pool:
            statuses = list(pool.map(lambda _: gateway.send(("X-API-Key", issued.key)).status, range(50)))
        assert statuses == [200] * 50
        assert len(gateway.backend.seen) == 50
        assert issued.total(code="valid", consumer=None) == 50

    def test_a_fault_of_the_service_stays_its_own(self, gateway: Gateway, issued: Issued) -> None:
        reply = gateway.send(("X-API-Key", issued.key), path="/broken")
        assert (reply.status, reply.body) == (500, b"hello")


class TestStops:
    def test_no_key_and_bad_keys(self, gateway: Gateway, issued: Issued) -> None:
        good = ("X-API-Key", issued.key)
        for headers in (
            (),
            (("X-API-Key", mint(TokenKind.ISSUED, "prod").expose()),),
            (("X-API-Key", issued.world.token),),
            (good, ("Authorization", f"Bearer {issued.key}")),
        ):
            reply = gateway.send(*headers)
            assert reply.status == 401
            assert "www-authenticate" in reply.headers
        assert gateway.backend.seen == []

    def test_a_revoked_key_from_the_commit_on(self, gateway: Gateway, issued: Issued) -> None:
        assert {gateway.send(("X-API-Key", issued.key)).status for _ in range(20)} == {200}
        issued.world.change(keys.mark_revoked, issued.version())
        assert {gateway.send(("X-API-Key", issued.key)).status for _ in range(20)} == {401}
        assert len(gateway.backend.seen) == 20
        assert issued.total(code="revoked") == 20

    def test_a_good_key_of_another_service(self, gateway: Gateway, issued: Issued) -> None:
        other = issue(issued.world.server)
        assert other.pass_by().status == 200
        assert gateway.send(("X-API-Key", other.key)).status == 401
        assert gateway.backend.seen == []

    def test_a_good_key_of_another_environment(self, gateway: Gateway, issued: Issued) -> None:
        elsewhere = issue(issued.world.server, environment="dev")
        assert gateway.send(("X-API-Key", elsewhere.key)).status == 401

    def test_too_often(self, gateway: Gateway, issued: Issued) -> None:
        # Twice the limit: also where a minute ends among them, some are too many.
        replies = [gateway.send(("X-API-Key", issued.key)) for _ in range(2 * LIMIT + 1)]
        refused = [reply for reply in replies if reply.status != 200]
        assert refused
        assert {reply.status for reply in refused} == {429}
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
        assert len(gateway.backend.seen) == len(replies) - len(refused)

    def test_nobody_gets_in_while_keyturn_is_away(
        self, tmp_path: Path, free_port: int, issued: Issued, backend: Backend
    ) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # and nobody listens
            nowhere: int = closed.getsockname()[1]
            with gateway_to(tmp_path, free_port, nowhere, backend, "image-api") as gateway:
                assert gateway.send(("X-API-Key", issued.key)).status == 503
        assert backend.seen == []


class TestTheRestOfTheDocument:
    def test_the_python_function_does_what_it_says(
        self, issued: Issued, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEYTURN_URL", f"http://127.0.0.1:{issued.world.server.port}")
        monkeypatch.setenv("KEYTURN_TOKEN", issued.world.token)
        names: dict[str, Any] = {}
        exec(compile(snippet("python"), str(DOCUMENT), "exec"), names)
        told = names["verify"](issued.key)
        assert (told["valid"], told["service"]) == (True, issued.world.service.slug)
        assert names["verify"]("another") == {"valid": False, "code": "not_found"}

    def test_the_answer_shown_is_what_is_answered(self, issued: Issued) -> None:
        shown = snippet("json")
        told = issued.verify(issued.key).json
        assert json.loads(shown) == told | {"service": "image-api", "version": 7}

    def test_gateways_are_recorded_under_the_name_that_is_told(self, issued: Issued) -> None:
        before = clock.now()
        issued.pass_by()
        (told,) = verifiers.verified([issued.version().id], before)
        assert told.caller == "forward-auth"
        assert f"`{told.caller}`" in DOCUMENT.read_text("utf-8")
