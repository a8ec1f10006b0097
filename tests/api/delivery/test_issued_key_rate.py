"""KEYTURN_ISSUED_KEY_RATE: how often one key that we issued is good for within a minute"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from pytest_django import DjangoDbBlocker

from keyvault import clock
from keyvault.services import keys
from tests.api.conftest import Server, _pointed_at, serving
from tests.api.delivery.issued import Issued, issue
from tests.api.wire import Reply

LIMIT = 20
Found = TypeVar("Found")


@pytest.fixture(scope="module")
def limited_server(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limited")
    with serving(folder, django_db_blocker, KEYTURN_ISSUED_KEY_RATE=str(LIMIT)) as started:
        yield started


@pytest.fixture
def limited(limited_server: Server, django_db_blocker: DjangoDbBlocker) -> Iterator[Server]:
    with django_db_blocker.unblock(), _pointed_at(limited_server.database, limited_server.keyring):
        yield limited_server


def within_a_minute(server: Server, scene: Callable[[Issued], Found]) -> tuple[Issued, Found]:
    """Play a scene with a fresh key; once more when a minute ended in the middle of it."""
    for _ in range(3):
        issued, minute = issue(server), clock.now().minute
        found = scene(issued)
        if clock.now().minute == minute:
            return issued, found
    raise AssertionError("three times in a row a minute ended: this machine is too slow")


def test_forward_auth_is_429_and_says_when_to_come_back(limited: Server) -> None:
    def scene(issued: Issued) -> list[Reply]:
        return [issued.pass_by() for _ in range(LIMIT + 3)]

    issued, replies = within_a_minute(limited, scene)
    assert [reply.status for reply in replies] == [200] * LIMIT + [429] * 3
    assert [int(reply.headers["ratelimit-remaining"]) for reply in replies[:LIMIT]] == list(
        range(LIMIT - 1, -1, -1)
    )
    for reply in replies[LIMIT:]:
        assert reply.code == "rate_limited"
        assert reply.headers["ratelimit-limit"] == str(LIMIT)
        assert reply.headers["ratelimit-remaining"] == "0"
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert not [name for name in reply.headers if name.startswith("x-keyturn")]
    assert (issued.total(code="valid"), issued.total(code="rate_limited")) == (LIMIT, 3)


def test_verify_says_so_in_its_body(limited: Server) -> None:
    issued, replies = within_a_minute(
        limited, lambda issued: [issued.verify(issued.key) for _ in range(LIMIT + 2)]
    )
    assert [reply.json["code"] for reply in replies] == ["valid"] * LIMIT + ["rate_limited"] * 2
    assert replies[-1].json == {"valid": False, "code": "rate_limited"}
    # The headers are about the caller, who is far from its own limit.
    assert {reply.headers["ratelimit-limit"] for reply in replies} == {"100000"}
    assert issued.total(code="rate_limited", consumer=issued.world.consumer) == 2


def test_both_ways_and_both_processes_count_together(limited: Server) -> None:
    def scene(issued: Issued) -> Counter[bool]:
        ways: list[Callable[[], bool]] = [
            lambda: issued.code() == "valid",
            lambda: issued.pass_by().status == 200,
        ]
        with ThreadPoolExecutor(16) as pool:
            return Counter(pool.map(lambda n: ways[n % 2](), range(4 * LIMIT)))

    issued, found = within_a_minute(limited, scene)
    assert found == {True: LIMIT, False: 3 * LIMIT}
    assert (issued.total(code="valid"), issued.total(code="rate_limited")) == (LIMIT, 3 * LIMIT)


def test_every_version_has_a_count_of_its_own(limited: Server) -> None:
    def scene(issued: Issued) -> list[str]:
        incoming = issued.offer()
        for _ in range(LIMIT):
            issued.code()
        return [issued.code(), issued.code(incoming)]

    assert within_a_minute(limited, scene)[1] == ["rate_limited", "valid"]


def test_a_dead_key_is_dead_however_often_it_comes(limited: Server) -> None:
    def scene(issued: Issued) -> set[int]:
        issued.world.change(keys.mark_revoked, issued.version())
        return {issued.pass_by().status for _ in range(LIMIT + 3)}

    assert within_a_minute(limited, scene)[1] == {401}


def test_who_may_not_verify_a_key_uses_nothing_of_it(limited: Server) -> None:
    def scene(issued: Issued) -> list[str]:
        stranger = issue(limited)
        for _ in range(LIMIT):
            stranger.code(issued.key)
            issued.pass_by(query="?service=another")
        return [issued.code() for _ in range(LIMIT)]

    assert within_a_minute(limited, scene)[1] == ["valid"] * LIMIT
