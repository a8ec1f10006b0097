"""Decisions that stand: how long, and in which form their answers are kept."""

from __future__ import annotations

import gc
import uuid
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from keyvault.crypto.keyring import Keys
from keyvault.delivery.answer import Answer
from keyvault.delivery.cache import Cache, Found, View
from keyvault.delivery.limit import Tally, count_together
from keyvault.delivery.records import JobsRecord, Record
from keyvault.delivery.requests import words_of
from keyvault.delivery.standing import Standing, Standings

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SECRET = b"sk-live-planted-5f1c"
ANSWER = Answer(200, SECRET, b"text/plain", ((b"etag", b'"1"'),))


class Scene:
    """One record in a cache, and what stands because of it."""

    def __init__(self, capacity: int = 10) -> None:
        self.cache = Cache(10)
        self.keys = cast(Keys, object())
        self.ref = uuid.uuid4()
        self.record = Record()
        self.cache.tokens.put(Found("token", b"a", self.ref, self.record))
        self.standings = Standings(capacity)
        self.find(b"")  # from now on it knows the keys

    def keep(self, words: bytes, *used: Record, until: datetime | None = None) -> Standing:
        view = View(self.cache, self.keys, NOW)
        view.used.extend(used or (self.record,))
        standing = Standing(view, (None, until))
        self.standings.keep(words, standing, ANSWER, self.keys)
        return standing

    def find(self, words: bytes, now: datetime = NOW) -> Standing | None:
        return self.standings.find(words, self.keys, now)


def test_the_same_words_find_the_same_answer() -> None:
    scene = Scene()
    kept = scene.keep(b"words")
    assert scene.find(b"words") is kept
    assert scene.standings.answer(b"words", kept) == ANSWER
    assert scene.find(b"other words") is None


def test_it_falls_with_a_row_that_it_rests_on() -> None:
    scene = Scene()
    kept = scene.keep(b"words")
    scene.cache.tokens.row_changed(scene.ref)
    assert kept.stale
    assert scene.find(b"words") is None
    assert len(scene.standings) == 0


def test_it_falls_when_the_memory_is_cleared() -> None:
    scene = Scene()
    scene.keep(b"words")
    scene.cache.clear()
    assert scene.find(b"words") is None


def test_what_rests_on_a_stale_record_is_not_kept() -> None:
    scene = Scene()
    scene.record.outdate()
    scene.keep(b"words")
    assert scene.find(b"words") is None


def test_it_ends_at_the_moment_something_expires() -> None:
    scene, end = Scene(), NOW + timedelta(seconds=10)
    scene.keep(b"words", until=end)
    assert scene.find(b"words", end - timedelta(microseconds=1)) is not None
    assert scene.find(b"words", end) is None


def test_it_ends_with_the_keyring() -> None:
    scene = Scene()
    scene.keep(b"words")
    scene.keys = cast(Keys, object())
    assert scene.find(b"words") is None


def test_what_was_decided_with_another_keyring_is_not_kept() -> None:
    scene = Scene()
    view = View(scene.cache, scene.keys, NOW)
    scene.standings.keep(b"words", Standing(view, ()), ANSWER, cast(Keys, object()))
    assert scene.find(b"words") is None


def test_open_jobs_are_judged_anew_each_time() -> None:
    scene = Scene()
    scene.keep(b"words", scene.record, JobsRecord(open=1, last_to_at=NOW, read_at=NOW))
    assert scene.find(b"words") is None


def test_the_oldest_makes_room() -> None:
    scene = Scene(capacity=2)
    first = scene.keep(b"1")
    scene.keep(b"2")
    scene.keep(b"3")
    assert [scene.find(words) is not None for words in (b"1", b"2", b"3")] == [False, True, True]
    assert all(first is not held for held in scene.record._dependents or ())


def test_asking_again_spares_the_records_below() -> None:
    """They are not looked at any more, and must not look forgotten."""
    scene = Scene()
    scene.keep(b"words")
    scene.record.asked = False
    scene.find(b"words")
    assert scene.record.was_asked()
    assert not scene.record.was_asked()


def test_no_plaintext_is_kept() -> None:
    scene = Scene()
    kept = scene.keep(b"words")
    assert SECRET not in kept.sealed
    # Under other words it does not open: an entry cannot be moved.
    with pytest.raises(Exception, match=r"^$"):
        scene.standings.answer(b"other", kept)
    held = [value for value in gc.get_referents(kept) if isinstance(value, bytes)]
    assert held
    assert all(SECRET not in value for value in held)


# Words ---------------------------------------------------------------------------------------------


def scope(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "method": "GET",
        "path": "/v1/keys/a/dev/",
        "raw_path": b"/v1/keys/a/dev/",
        "query_string": b"instance=web-1",
        "headers": [(b"x-api-key", b"ktc_1"), (b"accept", b"*/*")],
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "HEAD"},
        {"raw_path": b"/v1/keys/b/dev/"},
        {"query_string": b"instance=web-2"},
        {"headers": [(b"x-api-key", b"ktc_2")]},
        {"headers": [(b"authorization", b"ktc_1")]},
        {"headers": [(b"x-api-key", b"ktc_1"), (b"x-api-key", b"ktc_1")]},
        {"headers": [(b"x-api-key", b"ktc_1"), (b"if-none-match", b'"1"')]},
        {"headers": [(b"x-api-key", b"ktc_1"), (b"x-instance-id", b"web-1")]},
        {"headers": [(b"x-api-key", b"ktc_1"), (b"content-type", b"text/plain")]},
        {"headers": [(b"x-api-key", b"ktc_1"), (b"content-encoding", b"gzip")]},
    ],
)
def test_whatever_decides_makes_other_words(changes: dict[str, object]) -> None:
    assert words_of(scope(**changes), b"") != words_of(scope(), b"")


def test_the_body_belongs_to_the_words() -> None:
    assert words_of(scope(), b"{}") != words_of(scope(), b"")


def test_what_decides_nothing_does_not() -> None:
    other = [(b"user-agent", b"curl"), (b"x-api-key", b"ktc_1")]
    assert words_of(scope(headers=other), b"") == words_of(scope(), b"")


# Counting together ---------------------------------------------------------------------------------


class Counts:
    """A limiter that keeps its numbers here."""

    local = True

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}

    def hit(self, subject: bytes, now: datetime, times: int = 1) -> int:
        self.numbers[subject] = self.numbers.get(subject, 0) + times
        return self.numbers[subject]


class Token:
    def __init__(self, name: bytes, limit: int) -> None:
        self.id, self.rate_per_minute = name, limit


def test_each_request_has_its_own_number_and_none_is_counted_twice() -> None:
    limiter = Counts()
    tallies = [Tally(limiter) for _ in range(5)]  # type: ignore[arg-type]
    for place, tally in enumerate(tallies):
        tally.owe(Token(b"even" if place % 2 == 0 else b"odd", 2))  # type: ignore[arg-type]
    for _ in range(2):
        count_together(limiter, tallies, NOW)  # type: ignore[arg-type]
    assert limiter.numbers == {b"even": 3, b"odd": 2}
    assert [tally.window.count for tally in tallies if tally.window] == [1, 1, 2, 2, 3]
    assert [tally.exceeded for tally in tallies] == [False, False, False, False, True]
