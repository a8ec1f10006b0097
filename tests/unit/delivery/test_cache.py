"""The memory of a process: what it drops, and whom it tells."""

from __future__ import annotations

import uuid
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.keyring import Keys
from keyvault.delivery.cache import Cache, Found, Kind, Missing, News, Noted, Table, View
from keyvault.delivery.records import Absent, Record, Tampered

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
KINDS: tuple[Kind, ...] = ("token", "grant", "key", "version", "issued", "jobs", "verifier")


def put(
    table: Table[Any], name: Hashable, ref: uuid.UUID | None = None, record: Record | None = None
) -> Record:
    kept = record or Record()
    table.put(Found(table.kind, name, ref, kept))
    return kept


def table(capacity: int = 3) -> Table[Any]:
    return Table("token", capacity)


# One table -----------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_makes_room() -> None:
    rows = table(3)
    held = {name: put(rows, name) for name in "abc"}
    assert rows.get("a") is held["a"]
    put(rows, "d")
    assert rows.get("b") is None
    assert [name for name in "acd" if rows.get(name)] == ["a", "c", "d"]
    assert len(rows) == 3


def test_what_made_room_is_stale() -> None:
    """Nobody would tell those who still hold it of its next change."""
    rows = table(1)
    first = put(rows, "a", uuid.uuid4())
    second = put(rows, "b", uuid.uuid4())
    assert (first.stale, second.stale) == (True, False)


def test_a_record_that_is_read_again_replaces_the_old_one() -> None:
    rows, ref = table(), uuid.uuid4()
    old = put(rows, "a", ref)
    new = put(rows, "a", ref)
    assert (old.stale, new.stale, rows.get("a"), len(rows)) == (True, False, new, 1)
    rows.row_changed(ref)
    assert (new.stale, rows.get("a")) == (True, None)


def test_a_change_reaches_every_name_of_a_row_and_no_other_row() -> None:
    rows, ref = table(10), uuid.uuid4()
    mine = [put(rows, name, ref) for name in ("by digest", "by id")]
    other = put(rows, "other", uuid.uuid4())
    rows.row_changed(ref)
    assert [record.stale for record in (*mine, other)] == [True, True, False]
    assert len(rows) == 1
    rows.row_changed(ref)


def test_one_name_of_a_row_may_go_and_the_other_is_still_told() -> None:
    rows, ref = table(2), uuid.uuid4()
    put(rows, "by digest", ref)
    by_id = put(rows, "by id", ref)
    put(rows, "other", uuid.uuid4())
    assert rows.get("by digest") is None
    rows.row_changed(ref)
    assert by_id.stale


def test_what_is_not_there_is_forgotten_at_any_change() -> None:
    """The row that changed may be the one that was missing."""
    rows = table()
    missing = put(rows, "a", None, Absent())
    known = put(rows, "b", uuid.uuid4())
    rows.row_changed(uuid.uuid4())
    assert (missing.stale, known.stale, rows.get("a")) == (True, False, None)


def test_a_row_that_came_is_not_forgotten_with_those_that_are_missing() -> None:
    rows, ref = table(), uuid.uuid4()
    put(rows, "a", None, Absent())
    there = put(rows, "a", ref)
    rows.row_changed(uuid.uuid4())
    assert not there.stale
    assert rows.get("a") is there


def test_emptying_leaves_nobody_believing() -> None:
    rows = table(10)
    held = [put(rows, "a", uuid.uuid4()), put(rows, "b", None, Absent())]
    rows.clear()
    assert (len(rows), [record.stale for record in held]) == (0, [True, True])
    put(rows, "a", uuid.uuid4())
    assert len(rows) == 1


# All of them ---------------------------------------------------------------------------------------


def filled() -> tuple[Cache, dict[Kind, Record], dict[Kind, uuid.UUID]]:
    """A cache with one record of each kind; versions and issued keys stand for the row of their key."""
    cache = Cache(10)
    refs: dict[Kind, uuid.UUID] = {kind: uuid.uuid4() for kind in KINDS}
    refs["version"] = refs["issued"] = refs["key"]
    records: dict[Kind, Record] = {kind: Record() for kind in KINDS}
    found = [Found(kind, "name", refs[kind], records[kind]) for kind in KINDS]
    assert cache.apply(News(5, NOW, found=found))
    return cache, records, refs


def stale(records: dict[Kind, Record]) -> set[Kind]:
    return {kind for kind, record in records.items() if record.stale}


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("token", {"token"}),
        ("grant", {"grant"}),
        ("jobs", {"jobs"}),
        ("key", {"key", "version", "issued"}),
    ],
)
def test_a_change_drops_what_was_read_from_its_row(kind: Kind, gone: set[Kind]) -> None:
    cache, records, refs = filled()
    assert cache.apply(News(6, NOW, changes=[Noted(kind, refs[kind], None)]))
    assert (stale(records), cache.seen) == (gone, 6)


def test_a_grant_tells_its_consumers_verifier() -> None:
    cache, records, refs = filled()
    cache.apply(News(6, NOW, changes=[Noted("grant", uuid.uuid4(), refs["verifier"])]))
    assert stale(records) == {"verifier"}


@pytest.mark.parametrize(
    "news",
    [
        News(6, NOW, changes=[Noted("all", uuid.uuid4(), None)]),
        News(6, NOW, reset=True),
        News(3, NOW, reset=True),
    ],
    ids=["something above", "a hole in the log", "a counter that went back"],
)
def test_some_news_drop_everything(news: News) -> None:
    cache, records, _ = filled()
    assert cache.apply(news)
    assert (stale(records), cache.seen) == (set(KINDS), news.seq)


def test_news_without_a_change_drop_nothing() -> None:
    cache, records, _ = filled()
    assert not cache.apply(News(5, NOW))
    assert stale(records) == set()


def test_what_was_read_after_a_change_is_not_dropped_by_it() -> None:
    """Rows are read after the log: they may be newer than it, never older."""
    cache, records, refs = filled()
    again = Record()
    cache.apply(
        News(
            6,
            NOW,
            changes=[Noted("token", refs["token"], None)],
            found=[Found("token", "name", refs["token"], again)],
        )
    )
    assert (stale(records), again.stale) == ({"token"}, False)


# What a change took and somebody will ask for again ------------------------------------------------


def test_what_was_asked_for_and_changed_is_lost_until_it_is_taken() -> None:
    cache, _, refs = filled()
    assert cache.tokens.get("name")
    cache.apply(News(6, NOW, changes=[Noted("token", refs["token"], None), Noted("key", refs["key"], None)]))
    assert cache.take_lost() == {"token": {"name"}}, "nobody asked for the key"
    assert cache.take_lost() == {}


def test_what_everybody_asked_for_is_lost_where_everything_is_dropped() -> None:
    cache, _, _ = filled()
    assert cache.tokens.get("name")
    assert cache.grants.get("name")
    cache.apply(News(6, NOW, reset=True))
    assert cache.take_lost() == {"token": {"name"}, "grant": {"name"}}


def test_what_was_read_with_the_change_is_not_lost() -> None:
    cache, _, refs = filled()
    assert cache.tokens.get("name")
    again = Found("token", "name", refs["token"], Record())
    cache.apply(News(6, NOW, changes=[Noted("token", refs["token"], None)], found=[again]))
    assert cache.take_lost() == {}


def test_what_was_not_there_is_not_lost() -> None:
    """Whoever guesses names would make work of every change."""
    cache = Cache(10)
    put(cache.grants, "guessed", None, Absent())
    assert cache.grants.get("guessed")
    cache.apply(News(6, NOW, changes=[Noted("grant", uuid.uuid4(), None)]))
    assert (len(cache.grants), cache.take_lost()) == (0, {})


# A decision ----------------------------------------------------------------------------------------


def view_of(cache: Cache) -> View:
    return View(cache, cast(Keys, None), NOW)


def test_a_decision_notes_all_that_it_rests_on() -> None:
    cache = Cache(10)
    token, consumer = put(cache.tokens, b"digest", uuid.uuid4()), b"c" * 16
    nothing = put(cache.grants, (consumer, b"e" * 16, "service"), None, Absent())
    view = view_of(cache)
    assert view.token(b"digest") is token
    assert view.grant(consumer, b"e" * 16, "service") is None
    assert view.used == [token, nothing], "a no rests on something too"


def test_what_is_not_in_memory_is_asked_for_by_name() -> None:
    with pytest.raises(Missing) as missing:
        view_of(Cache(10)).version(b"k" * 16, 3)
    assert (missing.value.kind, missing.value.name) == ("version", (b"k" * 16, 3))


def test_a_row_that_somebody_changed_is_an_error_and_rests_on_that_row() -> None:
    cache = Cache(10)
    tampered = put(cache.keys, (b"s" * 16, b"e" * 16), uuid.uuid4(), Tampered())
    view = view_of(cache)
    with pytest.raises(IntegrityError):
        view.key(b"s" * 16, b"e" * 16)
    assert view.used == [tampered]
