"""Following the change log: what is known is dropped when it should be, also where the log was cut short."""

from __future__ import annotations

import pytest
from django.db import DatabaseError

from keyvault import tasks
from keyvault.actors import SYSTEM
from keyvault.delivery import loading
from keyvault.delivery.cache import Cache, News, Noted, Wanted
from keyvault.delivery.records import Absent, GrantRecord, KeyRecord, Record, TokenRecord
from keyvault.models import Change, ChangeCounter, ConsumerToken, Grant
from keyvault.services import changes, consumers
from tests.integration.furniture import NOW, Furniture, furnish

pytestmark = pytest.mark.django_db(transaction=True)


class Known:
    """A memory, and the rows of one consumer, grant and key in it."""

    def __init__(self) -> None:
        self.furniture: Furniture = furnish()
        self.key = self.furniture.key()
        self.token: ConsumerToken
        self.token, _ = self.furniture.reader()
        self.grant = Grant.objects.get(consumer=self.token.consumer)
        self.cache = Cache(100)
        self.names: Wanted = {
            "token": {bytes(self.token.digest)},
            "grant": {(self.token.consumer_id.bytes, self.key.environment_id.bytes, self.key.service.slug)},
            "key": {(self.key.service_id.bytes, self.key.environment_id.bytes)},
        }

    def look(self, wanted: Wanted | None = None) -> News:
        news = loading.look(self.cache.seen, wanted or {})
        self.cache.apply(news)
        return news

    def held(self) -> dict[str, Record]:
        found: dict[str, Record | None] = {
            table.kind: table.get(name)
            for table in (self.cache.tokens, self.cache.grants, self.cache.keys)
            for name in self.names[table.kind]
        }
        return {kind: record for kind, record in found.items() if record is not None}


@pytest.fixture
def known(transactional_db: None) -> Known:
    # Emptying the tables after the test before was told too, and not in the order of its numbers.
    Change.objects.all().delete()
    ChangeCounter.objects.all().delete()
    known = Known()
    assert known.look(known.names).reset, "a process that starts knows nothing"
    assert {kind: type(record) for kind, record in known.held().items()} == {
        "token": TokenRecord,
        "grant": GrantRecord,
        "key": KeyRecord,
    }
    return known


def seq() -> int:
    return ChangeCounter.objects.get().seq


def some_changes(known: Known, n: int) -> None:
    for number in range(n):
        ConsumerToken.objects.filter(pk=known.token.pk).update(hint=f"change {number}")


def test_only_what_changed_is_dropped(known: Known) -> None:
    held = known.held()
    some_changes(known, 1)
    news = known.look()
    assert not news.reset
    assert set(news.changes) == {Noted("token", known.token.id, None)}
    assert known.held().keys() == {"grant", "key"}
    assert held["token"].stale
    assert not held["grant"].stale


def test_nothing_new_drops_nothing(known: Known) -> None:
    held = known.held()
    news = known.look()
    assert (news.seq, news.reset, list(news.changes)) == (known.cache.seen, False, [])
    assert known.held() == held


def test_a_grant_that_was_missing_is_seen_when_it_comes(known: Known) -> None:
    other = known.furniture.consumer()
    name = (other.id.bytes, known.key.environment_id.bytes, known.key.service.slug)
    known.look({"grant": {name}})
    missing = known.cache.grants.get(name)
    assert isinstance(missing, Absent)
    consumers.set_grant(
        SYSTEM, other, known.furniture.service, known.key.environment, verbs=["read"], now=NOW
    )
    known.look()
    assert missing.stale
    known.look({"grant": {name}})
    assert isinstance(known.cache.grants.get(name), GrantRecord)


@pytest.mark.parametrize("back_to", [0, 1])
def test_a_counter_that_went_back_is_another_history(known: Known, back_to: int) -> None:
    """A restored database: its next changes get numbers that this process has seen already."""
    some_changes(known, 3)
    known.look(known.names)
    held = known.held()
    ChangeCounter.objects.update(seq=known.cache.seen - 1 if back_to else 0)
    assert known.look().reset
    assert known.held() == {}
    assert all(record.stale for record in held.values())
    assert known.cache.seen == seq()


def test_a_database_without_a_counter_is_another_history(known: Known) -> None:
    ChangeCounter.objects.all().delete()
    assert known.look().reset
    assert (known.held(), known.cache.seen) == ({}, 0)


def test_too_many_changes_at_once_are_a_reset(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_CHANGES", 5)
    some_changes(known, 5)
    assert not known.look().reset
    some_changes(known, 6)
    assert known.look().reset
    assert known.held() == {}


# The log is cut short --------------------------------------------------------------------------------


def test_who_lags_behind_the_log_starts_from_scratch(known: Known) -> None:
    some_changes(known, 10)
    assert changes.prune(keep=4) > 0
    assert known.look().reset
    assert known.held() == {}


def test_who_has_seen_all_that_is_gone_goes_on(known: Known) -> None:
    known.look()
    floor = known.cache.seen
    some_changes(known, 4)
    changes.prune(keep=4)
    assert ChangeCounter.objects.get().floor == floor
    news = known.look()
    assert not news.reset
    assert len(news.changes) == 4
    assert known.held().keys() == {"grant", "key"}


def test_one_number_short_is_too_short(known: Known) -> None:
    known.look()
    some_changes(known, 5)
    changes.prune(keep=4)
    assert ChangeCounter.objects.get().floor == known.cache.seen + 1
    assert known.look().reset


@pytest.mark.parametrize("keep", [1, 3, 7, 11])
def test_pruning_keeps_numbers_whole(known: Known, keep: int) -> None:
    Change.objects.all().delete()
    # Three changes a number.
    first = seq() + 1
    Change.objects.bulk_create(
        Change(seq=number, kind="key", ref=known.key.id) for number in range(first, first + 4) for _ in "abc"
    )
    ChangeCounter.objects.update(seq=first + 3)
    gone = changes.prune(keep)
    left = list(Change.objects.order_by("id").values_list("seq", flat=True))
    assert len(left) == 12 - gone >= keep
    assert len(left) < keep + 3
    assert {number: left.count(number) for number in left} == dict.fromkeys(set(left), 3)
    assert ChangeCounter.objects.get().floor == (left[0] - 1 if gone else 0)
    assert changes.prune(keep) == 0


def test_there_may_be_nothing_to_prune(known: Known) -> None:
    assert changes.prune() == 0
    assert ChangeCounter.objects.get().floor == 0
    Change.objects.all().delete()
    assert changes.prune() == 0


def test_the_log_and_its_floor_move_together(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between must not leave a log with a hole that nobody is told of."""
    some_changes(known, 10)
    count = Change.objects.count()

    def crash(*args: object, **kwargs: object) -> None:
        raise DatabaseError("crash")

    monkeypatch.setattr(type(ChangeCounter.objects.all()), "update", crash)
    with pytest.raises(DatabaseError, match="crash"):
        changes.prune(keep=2)
    assert Change.objects.count() == count


def test_the_periodic_task_prunes(known: Known) -> None:
    some_changes(known, 10)
    Change.objects.filter(seq=seq()).update(id=Change.objects.order_by("-id")[0].id + changes.KEPT)
    tasks.roll_up()
    assert Change.objects.count() == 1
    assert ChangeCounter.objects.get().floor == seq() - 1
