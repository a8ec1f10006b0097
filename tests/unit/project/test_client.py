"""The client of consumers, against a real server on loopback that answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from keyvault import client as module
from keyvault.client import Binding, Client, ClientError, parse_binding

KEY = {"service": "s", "environment": "dev", "version": 7, "key": "plain-7"}
TOKEN = "ktc_dev_test"


@dataclass
class Reply:
    status: int = 200
    document: object = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class Server:
    url: str
    replies: list[Reply] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def client(self, **more: object) -> Client:
        return Client(self.url, TOKEN, instance="host-1", wait=self.waits.append, **more)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.seen.append(Seen(parts.path, parse_qs(parts.query), dict(self.headers.items())))
            reply = state.replies.pop(0)
            body = b"" if reply.document is None else json.dumps(reply.document).encode()
            self.send_response(reply.status)
            for name, text in reply.headers.items():
                self.send_header(name, text)
            if reply.status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if reply.status != 304:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """A test's output is not a server log."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def error(status: int, code: str) -> Reply:
    return Reply(
        status, {"error": {"code": code, "message": "No.", "status": status, "request_id": "r1234567"}}
    )


def test_a_key_is_asked_for_with_token_and_instance(server: Server) -> None:
    server.replies = [Reply(document=KEY, headers={"ETag": '"e7"'})]
    answer = server.client().get("s", "dev")
    assert (answer.status, answer.etag, answer.document()) == (200, '"e7"', KEY)
    assert server.seen[0].path == "/v1/keys/s/dev/"
    assert server.seen[0].query == {"instance": ["host-1"]}
    assert {name.lower(): text for name, text in server.seen[0].headers.items()}["x-api-key"] == TOKEN


def test_names_cannot_change_the_path(server: Server) -> None:
    server.replies = [error(400, "malformed_path")]
    with pytest.raises(ClientError):
        server.client().get("../../admin", "dev?x=1")
    assert server.seen[0].path == "/v1/keys/..%2F..%2Fadmin/dev%3Fx%3D1/"


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (401, module.NOT_ALLOWED),
        (403, module.NOT_ALLOWED),
        (404, module.NOT_FOUND),
        (410, module.NOT_FOUND),
        (400, module.UNEXPECTED),
        (302, module.UNEXPECTED),
    ],
)
def test_a_final_refusal_is_not_tried_again(server: Server, status: int, exit_code: int) -> None:
    server.replies = [error(status, "some_code")]
    with pytest.raises(ClientError) as caught:
        server.client().get("s", "dev")
    assert caught.value.exit_code == exit_code
    assert len(server.seen) == 1
    assert "some_code" in str(caught.value)
    assert "r1234567" in str(caught.value)


def test_a_redirect_does_not_carry_the_token_away(server: Server) -> None:
    server.replies = [Reply(302, headers={"Location": f"{server.url}/elsewhere"})]
    with pytest.raises(ClientError):
        server.client().get("s", "dev")
    assert [seen.path for seen in server.seen] == ["/v1/keys/s/dev/"]


@pytest.mark.parametrize("status", sorted(module.TRY_AGAIN))
def test_a_passing_failure_is_tried_again(server: Server, status: int) -> None:
    server.replies = [error(status, "x"), Reply(document=KEY)]
    assert server.client().get("s", "dev").document() == KEY
    assert len(server.waits) == 1


def test_retry_after_is_honoured_within_reason(server: Server) -> None:
    limited = error(429, "rate_limited")
    server.replies = [
        Reply(429, limited.document, {"Retry-After": "7"}),
        Reply(429, limited.document, {"Retry-After": "86400"}),
        Reply(document=KEY),
    ]
    server.client().get("s", "dev")
    assert server.waits == [7.0, module.LONGEST_WAIT]


def test_it_gives_up_after_the_last_attempt(server: Server) -> None:
    server.replies = [error(503, "database_unavailable")] * module.ATTEMPTS
    with pytest.raises(ClientError) as caught:
        server.client().get("s", "dev")
    assert caught.value.exit_code == module.UNAVAILABLE
    assert len(server.seen) == module.ATTEMPTS


def test_a_server_that_is_not_there_is_unavailable(free_port: int) -> None:
    waits: list[float] = []
    with pytest.raises(ClientError) as caught:
        Client(f"http://127.0.0.1:{free_port}", TOKEN, wait=waits.append).get("s", "dev")
    assert caught.value.exit_code == module.UNAVAILABLE
    assert len(waits) == module.ATTEMPTS - 1
    assert TOKEN not in str(caught.value)


def test_an_unchanged_key_is_a_304_without_a_body(server: Server) -> None:
    server.replies = [Reply(304, headers={"ETag": '"e7"'})]
    answer = server.client().get("s", "dev", etag='"e7"')
    assert (answer.status, answer.body) == (304, b"")
    assert '"e7"' in server.seen[0].headers.values()


def test_watch_yields_every_change_once(server: Server) -> None:
    eighth = {**KEY, "version": 8, "key": "plain-8"}
    server.replies = [
        Reply(document=KEY, headers={"ETag": '"e7"'}),
        Reply(304, headers={"ETag": '"e7"'}),
        Reply(document=eighth, headers={"ETag": '"e8"'}),
        error(401, "invalid_api_key"),
    ]
    changes = server.client().watch("s", "dev")
    assert [next(changes).document()["version"], next(changes).document()["version"]] == [7, 8]
    with pytest.raises(ClientError):
        next(changes)
    assert [seen.path for seen in server.seen] == ["/v1/keys/s/dev/"] + ["/v1/keys/s/dev/watch/"] * 3
    assert [seen.query["etag"] for seen in server.seen[1:]] == [['"e7"'], ['"e7"'], ['"e8"']]


@pytest.mark.parametrize(
    "text", ["a:b", "a:b:c:d", "a::V", ":b:V", "a:b:", "a:b:NOT-A-NAME", "a:b:1X", "a:b:Ä"]
)
def test_a_malformed_binding_is_refused(text: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse_binding(text)
    assert caught.value.exit_code == module.USAGE


def test_a_binding_names_service_environment_and_variable() -> None:
    assert parse_binding("cut-out:prod:API_KEY") == Binding("cut-out", "prod", "API_KEY")


@pytest.mark.parametrize(("url", "token"), [("ftp://h", "t"), ("nonsense", "t"), ("http://h", " ")])
def test_missing_configuration_is_wrong_usage(url: str, token: str) -> None:
    with pytest.raises(ClientError) as caught:
        Client(url, token)
    assert caught.value.exit_code == module.USAGE


# Key sets ------------------------------------------------------------------------------------------


def test_a_key_set_is_fetched_without_a_token(server: Server) -> None:
    server.replies += [Reply(503), Reply(200, {"keys": []})]
    assert module.key_set(f"{server.url}/set.json", wait=server.waits.append) == {"keys": []}
    assert len(server.waits) == 1
    assert [seen.path for seen in server.seen] == ["/set.json", "/set.json"]
    assert not [name for seen in server.seen for name in seen.headers if name.lower() == "x-api-key"]


def test_a_key_set_that_cannot_be_had_is_told_apart(server: Server, tmp_path: Path) -> None:
    server.replies += [Reply(503)]
    for source, code in (
        (f"{server.url}/set.json", 5),
        ("http://127.0.0.1:1/set.json", 5),
        (str(tmp_path / "none"), 2),
        (str(tmp_path), 2),
    ):
        with pytest.raises(ClientError) as refused:
            module.key_set(source, attempts=1, wait=server.waits.append)
        assert refused.value.exit_code == code
    (tmp_path / "list").write_text("[]")
    with pytest.raises(ClientError, match="no key set"):
        module.key_set(str(tmp_path / "list"))
