"""GET /v1/keys/{service}/{environment}/watch/"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.services import consumers
from tests.api.delivery.world import World
from tests.api.wire import Reply
from tests.integration.processes import wait_for

Make = Callable[..., World]
PATIENCE = 30  # seconds, for a busy machine; who is not told waits out a timeout of 60


def watch(world: World, query: str = "", *headers: tuple[str, str]) -> Reply:
    return world.send("GET", f"{world.path}watch/{query}", *headers)


def tag(world: World) -> str:
    return world.get().headers["etag"].strip('"')


def seen(caller: World) -> None:
    """Wait until the server has counted a request of this caller. Of several, a new minute would forget."""
    wait_for(lambda: caller.counted() > 0, "the server has seen the request")


class Test200:
    def test_without_an_etag_the_answer_comes_at_once(self, world: World) -> None:
        reply = watch(world, "?timeout=60")
        assert (reply.status, reply.json["key"]) == (200, world.secret)

    def test_with_an_old_etag_the_answer_comes_at_once(self, world: World) -> None:
        old = tag(world)
        _, incoming = world.offer(100)
        assert watch(world, f"?etag={old}&timeout=60").json["key"] == incoming

    def test_the_answer_comes_when_the_version_changes(self, world: World) -> None:
        held, caller = tag(world), world.another_caller()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(watch, caller, f"?etag={held}&timeout=60&instance=web-1")
            seen(caller)
            assert not waiting.done()
            _, incoming = world.offer(100)
            reply = waiting.result(PATIENCE)
        assert (reply.status, reply.json["key"], reply.json["label"]) == (200, incoming, "pending")
        assert [row.status for row in world.deliveries()] == [200, 200]
        assert world.deliveries()[-1].instance == "web-1"

    def test_a_change_for_others_wakes_nobody(self, world: World) -> None:
        held = tag(world)
        world.offer(0)
        assert watch(world, f"?etag={held}&timeout=1").status == 304

    def test_more_callers_may_wait_than_there_are_threads(self, world: World) -> None:
        held = tag(world)
        callers = [world.another_caller() for _ in range(40)]
        with ThreadPoolExecutor(40) as threads:
            waiting = [
                threads.submit(watch, caller, f"?etag={held}&timeout=60&instance=web-{n}")
                for n, caller in enumerate(callers)
            ]
            for caller in callers:
                seen(caller)
            assert world.get().status == 200
            assert not any(future.done() for future in waiting)
            world.offer(100)
            assert {future.result(PATIENCE).json["label"] for future in waiting} == {"pending"}

    def test_waiting_counts_as_one_request(self, world: World) -> None:
        held, caller = tag(world), world.another_caller()
        watch(caller, f"?etag={held}&timeout=2")
        assert caller.counted() == 1


class Test304:
    def test_nothing_changed_until_the_timeout(self, world: World) -> None:
        reply = world.get()
        started = time.monotonic()
        late = watch(world, "?timeout=1", ("If-None-Match", reply.headers["etag"]))
        assert (late.status, late.body, late.headers["etag"]) == (304, b"", reply.headers["etag"])
        assert 0.9 <= time.monotonic() - started < 25, "a second, and not the half minute of the default"
        assert [row.status for row in world.deliveries()] == [200, 304]


class Test400:
    @pytest.mark.parametrize("timeout", ["0", "61", "-1", "1.5", "", "1e1", "ten", "999"])
    def test_timeouts(self, world: World, timeout: str) -> None:
        reply = watch(world, f"?timeout={timeout}")
        assert (reply.code, list(reply.error["fields"])) == ("validation_error", ["timeout"])

    @pytest.mark.parametrize("etag", ["", "x", "%22", "a" * 33])
    def test_etags(self, world: World, etag: str) -> None:
        reply = watch(world, f"?etag={etag}")
        assert (reply.code, list(reply.error["fields"])) == ("validation_error", ["etag"])


class Test401:
    def test_no_credential(self, world: World) -> None:
        assert world.server.send("GET", f"{world.path}watch/").code == "missing_api_key"

    def test_a_token_that_is_revoked_meanwhile(self, world: World) -> None:
        held, caller = tag(world), world.another_caller()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(watch, caller, f"?etag={held}&timeout=60")
            seen(caller)
            consumers.revoke_token(SYSTEM, caller.token_row, now=clock.now())
            assert waiting.result(PATIENCE).code == "invalid_api_key"


class Test403:
    def test_a_grant_without_read(self, make: Make) -> None:
        assert watch(make(verbs=["report"])).code == "permission_denied"


class Test404:
    def test_a_key_of_somebody_else(self, make: Make) -> None:
        world, stranger = make(), make()
        assert world.send("GET", f"{stranger.path}watch/").code == "not_found"


class Test405:
    @pytest.mark.parametrize("method", ["POST", "HEAD"])
    def test_other_methods(self, world: World, method: str) -> None:
        reply = world.send(method, f"{world.path}watch/")
        assert (reply.status, reply.headers["allow"]) == (405, "GET")


class Test429:
    def test_over_the_limit_nobody_waits(self, make: Make) -> None:
        world = make(rate=2)
        held, refused = tag(world), []
        for _ in range(6):
            started = time.monotonic()
            if watch(world, f"?etag={held}&timeout=3").status == 429:
                refused.append(time.monotonic() - started)
        # A minute may end among them, and a busy machine may hold up some.
        assert len(refused) >= 2
        assert min(refused) < 3


def test_a_caller_that_hangs_up_is_forgotten(world: World) -> None:
    held, caller = tag(world), world.another_caller()
    with socket.create_connection(("127.0.0.1", world.server.port)) as connection:
        connection.sendall(
            f"GET {world.path}watch/?etag={held}&timeout=60 HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{world.server.port}\r\nX-Request-ID: hung-up-1234\r\n"
            f"X-API-Key: {caller.token}\r\n\r\n".encode()
        )
        seen(caller)
    wait_for(lambda: b"caller gone" in _log_of(world, b"hung-up-1234"), "the server forgets who is gone")
    assert [row.status for row in world.deliveries()] == [200]


def _log_of(world: World, request_id: bytes) -> bytes:
    return b"\n".join(line for line in world.server.log.read_bytes().splitlines() if request_id in line)
