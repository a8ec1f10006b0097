"""The ASGI front: what it refuses, where it sends the rest, and in which shape."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from keyvault.errors import MAX_BODY_BYTES
from keyvault.project.front import Front, Message, Receive, Scope, Send

Pairs = list[tuple[bytes, bytes]]


@dataclass
class Exchange:
    """One request through a front with recording applications behind it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    taken_by: str = ""
    scope: Scope = field(default_factory=dict)
    received: bytes = b""

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


class FakeDelivery:
    def __init__(self, exchange: Exchange, *, fails: bool) -> None:
        self.exchange, self.fails = exchange, fails

    def handles(self, method: str, path: str) -> bool:
        return path.startswith("/v1/keys/")

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.fails:
            raise RuntimeError("broken")
        await _record(self.exchange, "delivery", scope, receive, send)


async def _record(exchange: Exchange, name: str, scope: Scope, receive: Receive, send: Send) -> None:
    exchange.taken_by, exchange.scope = name, scope
    exchange.received = (await receive()).get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def ask(
    path: str,
    *,
    method: str = "GET",
    raw: bytes | None = None,
    query: bytes = b"",
    headers: Pairs | None = None,
    chunks: list[bytes] | None = None,
    fails: bool = False,
) -> Exchange:
    exchange = Exchange()

    async def django(scope: Scope, receive: Receive, send: Send) -> None:
        await _record(exchange, "django", scope, receive, send)

    async def exchange_once() -> None:
        left = list(chunks or [b""])

        async def receive() -> Message:
            body = left.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(left)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.headers = {name.decode(): text.decode() for name, text in message["headers"]}
            else:
                exchange.body += message["body"]

        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode() if raw is None else raw,
            "query_string": query,
            "headers": headers or [],
        }
        await Front(FakeDelivery(exchange, fails=fails), django, lambda host: host == "good")(
            scope, receive, send
        )

    asyncio.run(exchange_once())
    return exchange


def test_delivery_paths_never_reach_django() -> None:
    assert ask("/v1/keys/a/dev/").taken_by == "delivery"
    assert ask("/v1/teams/").taken_by == "django"
    assert ask("/").taken_by == "django"


@pytest.mark.parametrize(
    "raw",
    [b"/v1/keys/%61/dev/", b"/v1/keys//dev/", b"/v1/keys/../dev/", b"/v1/./keys/", b"/v1/keys/a/dev/%00"],
)
def test_a_path_with_two_spellings_is_refused(raw: bytes) -> None:
    answer = ask("/v1/keys/a/dev/", raw=raw)
    assert (answer.status, answer.code, answer.taken_by) == (400, "malformed_path", "")


def test_a_page_for_people_may_have_escapes() -> None:
    assert ask("/audit/a b/", raw=b"/audit/a%20b/").taken_by == "django"


def test_a_foreign_host_gets_no_key() -> None:
    assert ask("/v1/keys/a/dev/", headers=[(b"host", b"evil")]).code == "bad_host"
    assert ask("/v1/keys/a/dev/", headers=[(b"host", b"good")]).taken_by == "delivery"


def test_a_query_that_is_not_ascii_is_refused() -> None:
    assert ask("/v1/teams/", query=b"a=\xff").code == "validation_error"


@pytest.mark.parametrize("path", ["/v1/teams/", "/v1/keys/a/dev/reports/", "/accounts/login/"])
def test_a_body_over_the_cap_is_refused_however_it_is_sent(path: str) -> None:
    chunk = b"x" * 1000
    chunks = [chunk] * (MAX_BODY_BYTES // 1000 + 1)
    answer = ask(path, method="POST", headers=[(b"transfer-encoding", b"chunked")], chunks=chunks)
    assert (answer.status, answer.code, answer.taken_by) == (413, "payload_too_large", "")


def test_a_chunked_body_arrives_whole_with_its_length() -> None:
    answer = ask(
        "/v1/teams/", method="POST", headers=[(b"transfer-encoding", b"chunked")], chunks=[b"ab", b"", b"cde"]
    )
    assert answer.received == b"abcde"
    assert (b"content-length", b"5") in answer.scope["headers"]
    assert b"transfer-encoding" not in dict(answer.scope["headers"])


def test_the_callers_request_id_is_kept_when_well_formed() -> None:
    kept = ask("/v1/keys/a/dev/", headers=[(b"x-request-id", b"abcd-1234")])
    assert kept.scope["request_id"] == "abcd-1234"
    replaced = ask("/v1/keys/a/dev/", headers=[(b"x-request-id", b"a b")])
    assert replaced.scope["request_id"] not in ("", "a b")


def test_django_gets_exactly_one_request_id_and_no_headers_with_underscores() -> None:
    sent: Pairs = [(b"x-request-id", b"first-one"), (b"x-request-id", b"second-one"), (b"x_api_key", b"t")]
    headers = ask("/", headers=sent).scope["headers"]
    assert [text for name, text in headers if name == b"x-request-id"] == [b"second-one"]
    assert b"x_api_key" not in dict(headers)


def test_a_crash_below_is_an_envelope_with_the_request_id() -> None:
    answer = ask("/v1/keys/a/dev/", headers=[(b"x-request-id", b"abcd-1234")], fails=True)
    assert (answer.status, answer.code) == (500, "internal_error")
    assert answer.headers["x-request-id"] == "abcd-1234"
    assert answer.headers["cache-control"] == "no-store"


def test_lifespan_runs_the_shutdown_hooks() -> None:
    ran: list[str] = []
    sent: list[str] = []

    async def scenario() -> None:
        events = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Message:
            return {"type": next(events)}

        async def send(message: Message) -> None:
            sent.append(message["type"])

        async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
            raise AssertionError("no request was made")

        front = Front(FakeDelivery(Exchange(), fails=True), nothing, bool, [lambda: ran.append("closed")])
        await front({"type": "lifespan"}, receive, send)

    asyncio.run(scenario())
    assert ran == ["closed"]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
