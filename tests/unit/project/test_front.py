"""The ASGI front: what it refuses, where it sends the rest, and in which shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from keyvault.errors import MAX_BODY_BYTES
from keyvault.project.front import Front, Message, Receive, Scope, Send
from keyvault.project.proxies import Proxies, parse_networks

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


class Bench:
    """A front with recording applications behind it."""

    def __init__(self, *, fails: bool = False, **options: Any) -> None:
        self.fails = fails
        self.exchange = Exchange()
        self.front = Front(self, self.django, lambda host: host == "good", **options)

    def handles(self, path: str) -> bool:
        return path.startswith("/v1/keys/")

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.fails:
            raise RuntimeError("broken")
        await self._record("delivery", scope, receive, send)

    async def django(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._record("django", scope, receive, send)

    async def _record(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        self.exchange.taken_by, self.exchange.scope = name, scope
        self.exchange.received = (await receive()).get("body", b"")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def exchange_once(
        self,
        path: str,
        *,
        method: str = "GET",
        raw: bytes | None = None,
        query: bytes = b"",
        headers: Pairs | None = None,
        chunks: Sequence[bytes] = (b"",),
        then: str = "end",
    ) -> Exchange:
        """One request. What comes after the chunks: the ``end``, ``silence``, or the caller is ``gone``."""
        exchange = self.exchange = Exchange()
        left = list(chunks)

        async def receive() -> Message:
            if left:
                return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or then != "end"}
            if then == "silence":
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

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
            "client": ("10.0.0.1", 4711),
            "scheme": "http",
        }
        await self.front(scope, receive, send)
        return exchange

    def ask(self, path: str, **request: Any) -> Exchange:
        return asyncio.run(self.exchange_once(path, **request))


def ask(path: str, **request: Any) -> Exchange:
    return Bench().ask(path, **request)


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
    answer = Bench(fails=True).ask("/v1/keys/a/dev/", headers=[(b"x-request-id", b"abcd-1234")])
    assert (answer.status, answer.code) == (500, "internal_error")
    assert answer.headers["x-request-id"] == "abcd-1234"
    assert answer.headers["cache-control"] == "no-store"


def test_what_passed_once_does_not_open_the_way_for_anything_else() -> None:
    bench, good = Bench(), [(b"host", b"good")]
    path = "/v1/keys/a/dev/"
    for _ in range(2):
        assert bench.ask(path, headers=good).taken_by == "delivery"
    assert bench.ask(path, headers=[(b"host", b"evil")]).code == "bad_host"
    assert bench.ask(path, headers=good, query=b"\xff").code == "validation_error"
    # A method that it does not take is refused there, not here.
    assert bench.ask(path, headers=good, method="PUT").taken_by == "delivery"
    assert bench.ask(path, headers=good, raw=b"/v1/keys/%61/dev/").code == "malformed_path"


def test_paths_without_number_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvault.project.front._KNOWN_PATHS_KEPT", 10)
    bench = Bench()
    for number in range(25):
        assert bench.ask(f"/v1/keys/service-{number}/dev/").taken_by == "delivery"
    assert bench.ask(f"/v1/keys/{'long' * 100}/dev/").taken_by == "delivery"
    assert len(bench.front._known_paths) == 5


def test_two_hosts_are_none() -> None:
    assert ask("/v1/keys/a/dev/", headers=[(b"host", b"good"), (b"host", b"good")]).code == "bad_host"


def test_a_body_that_takes_too_long_is_given_up() -> None:
    answer = Bench(body_seconds=0.01).ask(
        "/v1/keys/a/dev/", method="POST", headers=[(b"content-length", b"9")], chunks=[b"12"], then="silence"
    )
    assert (answer.status, answer.code, answer.taken_by) == (400, "validation_error", "")
    assert answer.headers["connection"] == "close"


def test_a_body_that_breaks_off_is_not_acted_upon() -> None:
    answer = ask(
        "/v1/teams/", method="POST", headers=[(b"content-length", b"9")], chunks=[b"12"], then="gone"
    )
    # Nobody may be there any more; but where its framing broke, somebody is.
    assert (answer.status, answer.code, answer.taken_by) == (400, "validation_error", "")


def test_what_proxies_say_reaches_delivery_and_django_as_the_caller_and_not_as_headers() -> None:
    said: Pairs = [
        (b"x-forwarded-for", b"127.0.0.1, 198.51.100.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"evil"),
        (b"forwarded", b"for=127.0.0.1"),
        (b"x-real-ip", b"127.0.0.1"),
    ]
    behind = Bench(proxies=Proxies(parse_networks(["10.0.0.0/8"])))
    for path in ("/v1/keys/a/dev/", "/v1/teams/"):
        scope = behind.ask(path, headers=said).scope
        assert (scope["client"], scope["scheme"]) == (("198.51.100.1", 0), "https")
        scope = ask(path, headers=said).scope
        assert (scope["client"], scope["scheme"]) == (("10.0.0.1", 4711), "http")
    for bench in (behind, Bench()):
        assert [name for name, _ in bench.ask("/", headers=said).scope["headers"]] == [b"x-request-id"]


def test_after_the_last_call_every_answer_is_the_last_on_its_connection() -> None:
    ran: list[str] = []
    bench = Bench(on_stop=[lambda: ran.append("stop")])
    assert "connection" not in bench.ask("/v1/keys/a/dev/").headers
    bench.front.last_call()
    for path in ("/v1/keys/a/dev/", "/"):
        answer = bench.ask(path)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert ran == [], "who only waits, waits on"


async def _live(front: Front, ran: list[str]) -> None:
    """One life of the process, noted in ``ran``."""
    events = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        ran.append(next(events))
        return {"type": ran[-1]}

    async def send(message: Message) -> None:
        ran.append(message["type"])

    await front({"type": "lifespan"}, receive, send)


def test_a_life_runs_its_hooks_in_their_order() -> None:
    ran: list[str] = []

    async def later(name: str) -> None:
        ran.append(name)

    def fail() -> None:
        raise RuntimeError("broken")

    front = Bench(
        on_startup=[lambda: later("start")],
        on_stop=[fail, lambda: later("stop")],
        on_shutdown=[fail, lambda: ran.append("close")],
    ).front
    asyncio.run(_live(front, ran))
    assert ran == [
        "lifespan.startup",
        "start",
        "lifespan.startup.complete",
        "lifespan.shutdown",
        "stop",
        "close",
        "lifespan.shutdown.complete",
    ]


def test_who_was_told_to_stop_is_not_told_again_at_the_end() -> None:
    ran: list[str] = []

    async def scenario(front: Front) -> None:
        await front.stop()
        await front.stop()
        await _live(front, ran)

    asyncio.run(scenario(Bench(on_stop=[lambda: ran.append("stop")]).front))
    assert ran.count("stop") == 1


def test_a_start_that_fails_is_told_to_the_server() -> None:
    ran: list[str] = []

    async def fail() -> None:
        raise RuntimeError("broken")

    asyncio.run(_live(Bench(on_startup=[fail]).front, ran))
    assert ran == ["lifespan.startup", "lifespan.startup.failed"]
