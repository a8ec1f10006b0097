"""Instance limits: who has a seat of a token, who gets the next one, and what a process remembers of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import pytest
from django.db import OperationalError, connection, transaction

from keyvault import clock, integrity
from keyvault.actors import SYSTEM
from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.secret import Secret
from keyvault.delivery import asgi, workers
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import TokenRecord
from keyvault.delivery.requests import Request
from keyvault.delivery.routes import Endpoint, Route
from keyvault.delivery.seats import Seats, Unseated
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent, ConsumerToken, Seat
from keyvault.services import consumers, retention, seats
from rotation.notice_rows import Notice
from rotation.services import channels
from tests.conftest import Tell
from tests.integration.furniture import (
    NOW,
    PATIENCE,
    Delivered,
    Furniture,
    answered,
    at_once,
    far_away,
    furnish,
    returned,
    serving,
)
from tests.integration.processes import wait_for

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
rows_go = pytest.mark.django_db
rows_stay = pytest.mark.django_db(transaction=True)


def limited(furniture: Furniture, limit: int | None) -> tuple[ConsumerToken, Secret]:
    row, _ = furniture.reader()
    return consumers.create_token(
        SYSTEM, row.consumer, row.environment, expires_at=far_away(), instance_limit=limit, now=NOW
    )


def take(token: ConsumerToken, instance: str, now: datetime = NOW) -> bool:
    return seats.take(token.id, instance, address="192.0.2.1", now=now)


def listener(furniture: Furniture) -> None:
    fields = {"level": "owner", "addresses": ["owner@example.org"]}
    channels.create_channel(
        SYSTEM, slug="owner", team=furniture.team, kind="mail", url=None, fields=fields, now=NOW
    )


def sitting(token: ConsumerToken) -> set[str]:
    return set(Seat.objects.filter(token=token).values_list("instance", flat=True))


# Rows ----------------------------------------------------------------------------------------------


@rows_go
def test_as_many_names_as_the_limit_says_and_not_one_more() -> None:
    token, other = limited(furnish(), 2)[0], limited(furnish(), 1)[0]
    assert [take(token, name) for name in ("a", "b", "c", "a", "b", "c")] == [
        True, True, False, True, True, False
    ]  # fmt: skip
    assert take(other, "c"), "another token has seats of its own"
    assert sitting(token) == {"a", "b"}


@rows_go
def test_who_stays_away_for_an_hour_makes_room_and_who_comes_back_keeps_the_seat() -> None:
    token, _ = limited(furnish(), 2)
    assert take(token, "stays") and take(token, "goes")  # noqa: PT018
    for minutes in range(10, 61, 10):
        assert take(token, "stays", NOW + minutes * MINUTE)
        assert take(token, "new", NOW + minutes * MINUTE - SECOND) is False
    assert take(token, "new", NOW + seats.KEPT)
    assert sitting(token) == {"stays", "new"}
    assert not take(token, "goes", NOW + seats.KEPT), "its place is taken"
    assert seats.taken([token.id], NOW + seats.KEPT) == {token.id: 2}
    assert take(token, "goes", NOW + 3 * seats.KEPT)
    assert seats.taken([token.id], NOW + 3 * seats.KEPT) == {token.id: 1}


@rows_go
def test_the_time_of_a_seat_never_goes_back() -> None:
    token, _ = limited(furnish(), 1)
    assert take(token, "a", NOW + MINUTE)
    assert take(token, "a", NOW)
    assert Seat.objects.get().last_at == NOW + MINUTE


@rows_go
def test_a_successor_has_the_limit_and_seats_of_its_own() -> None:
    token, _ = limited(furnish(), 1)
    assert take(token, "a")
    new, _ = consumers.rotate_token(SYSTEM, token, grace=timedelta(days=1), now=NOW)
    assert [take(new, "b"), take(new, "a"), take(token, "a")] == [True, False, True]


@rows_go
def test_a_full_token_is_recorded_once_an_hour_and_told_once_a_day() -> None:
    furniture = furnish()
    token, _ = limited(furniture, 1)
    listener(furniture)
    assert take(token, "a")
    for minutes in range(0, 59, 7):
        take(token, "a", NOW + minutes * MINUTE)
        assert not take(token, "thief", NOW + minutes * MINUTE)
    told = AuditEvent.objects.get(name=seats.EVENT)
    assert (told.team_id, told.subject) == (token.consumer.team_id, str(token.id))
    assert told.details == {
        "consumer": token.consumer.slug,
        "hint": token.hint,
        "limit": 1,
        "instance": "thief",
        "address": "192.0.2.1",
    }
    assert not take(token, "thief", NOW + seats.EVERY)
    assert AuditEvent.objects.filter(name=seats.EVENT).count() == 2
    notice = Notice.objects.get()
    assert (notice.kind, notice.sequence) == ("token.crowded", told.sequence)
    assert (notice.facts["place"], "thief" in str(notice.facts)) == ("192.0.2.1", False)


@rows_go
def test_a_limit_that_somebody_raised_gives_no_seat() -> None:
    token, _ = limited(furnish(), 1)
    assert take(token, "a")
    for raised in (2, None):
        ConsumerToken.objects.filter(pk=token.pk).update(instance_limit=raised)
        with pytest.raises(IntegrityError):
            take(token, "b")


@rows_go
def test_a_token_without_a_limit_has_the_mac_of_before_there_were_limits() -> None:
    free, bound = limited(furnish(), None)[0], limited(furnish(), 3)[0]
    assert [len(token.mac_fields()) for token in (free, bound)] == [8, 9]
    for token in (free, bound):
        integrity.verify(ConsumerToken.objects.get(pk=token.pk))


@rows_go
def test_seats_of_long_ago_are_forgotten() -> None:
    token, _ = limited(furnish(), 2)
    assert take(token, "old")
    later = NOW + timedelta(days=500)
    Seat.objects.create(token=token, instance="new", last_at=later)
    retention.tidy(later)
    assert sitting(token) == {"new"}


# Races ---------------------------------------------------------------------------------------------


@rows_stay
def test_two_that_come_at_once_do_not_share_the_last_seat(tell: Tell) -> None:
    furniture, let_in = furnish(), []
    for _ in range(5):
        token, _ = limited(furniture, 2)
        assert take(token, "here")
        seated = at_once(*(partial(take, token, f"new-{n}") for n in range(4)))
        assert sorted(returned(seated)) == [False, False, False, True], seated
        assert len(sitting(token)) == 2
        let_in.append(sum(returned(seated)))
    tell("seats raced for", {"races": len(let_in), "instances in each": 4, "let in": sum(let_in)})


@rows_stay
def test_the_same_instance_in_two_processes_takes_one_seat() -> None:
    token, _ = limited(furnish(), 1)
    assert at_once(*(lambda: take(token, "here") for _ in range(4))) == [True] * 4
    assert sitting(token) == {"here"}


@rows_stay
@pytest.mark.postgresql
def test_a_seat_is_kept_or_given_away_never_both() -> None:
    """One keeps the seat, in a transaction that is not over, while another comes for it; and vice versa."""
    token, _ = limited(furnish(), 1)
    # The clock of the newcomer is ahead: for it the time of the seat is over.
    ahead, now = NOW + seats.KEPT, NOW + seats.KEPT - SECOND
    assert take(token, "old")
    assert held_up(lambda: take(token, "old", now), lambda: take(token, "new", ahead)) == [True, False]
    assert sitting(token) == {"old"}
    Seat.objects.update(last_at=NOW)
    assert held_up(lambda: take(token, "new", ahead), lambda: take(token, "old", now)) == [True, False]
    assert sitting(token) == {"new"}


def held_up(first: Callable[[], bool], second: Callable[[], bool]) -> list[bool]:
    """What both return, where the first commits only once the second waits for it."""
    begun = threading.Event()

    def hold() -> bool:
        with transaction.atomic():
            result = first()
            begun.set()
            wait_for(somebody_waits, "the second one waits")
        return result

    def follow() -> bool:
        assert begun.wait(PATIENCE)
        return second()

    return returned(at_once(hold, follow))


def somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


# The memory of a process ---------------------------------------------------------------------------


@rows_stay
def test_a_process_that_knows_the_instance_asks_nobody() -> None:
    furniture = furnish()
    furniture.key()
    token, secret = granted(furniture, 1)

    async def story() -> list[int]:
        here, there = "instance=web-1", "instance=web-2"
        statuses = [(await ask_as(secret, furniture, query)).status for query in (here, there)]
        # Gone behind its back: only a look at the table would notice, and give the seat to another.
        await workers.run(Seat.objects.all().delete)
        # Other words, so that the second of them is decided from the start.
        for query in (here, f"{here}&version=current"):
            statuses.append((await ask_as(secret, furniture, query)).status)
        assert not await workers.run(lambda: sitting(token))
        # An answer that stands ends when the seat should be noted again, long before another can have it.
        assert asgi._plane is not None
        standing = asgi._plane._standings._by_words.values()
        noted = asgi._plane.seats._noted[token.id.bytes, "web-1"]
        assert [one.until for one in standing] == [noted + seats.NOTED] * 2
        return statuses

    assert serving(story) == [200, 403, 200, 200]
    # Another process has to ask.
    assert serving(lambda: ask_as(secret, furniture, "instance=web-2")).status == 200
    assert sitting(token) == {"web-2"}


@rows_stay
def test_a_token_without_a_limit_never_touches_the_table() -> None:
    furniture = furnish()
    furniture.key()
    token, secret = granted(furniture, None)
    for query in ("", "instance=web-1", "instance=web-2"):
        assert serving(partial(ask_as, secret, furniture, query)).status == 200
    assert not sitting(token)


def granted(furniture: Furniture, limit: int | None) -> tuple[ConsumerToken, Secret]:
    """Of a consumer that may read the key in prod, by the clock that delivery reads."""
    row, _ = furniture.reader()
    return consumers.create_token(
        SYSTEM, row.consumer, row.environment, expires_at=far_away(), instance_limit=limit, now=clock.now()
    )


async def ask_as(secret: Secret, furniture: Furniture, query: str) -> Delivered:
    return await answered(secret, furniture.service.slug, query=query)


@rows_stay
def test_a_seat_is_moved_beside_the_answer_and_outlives_an_outage() -> None:
    token, _ = limited(furnish(), 1)
    at, reachable = NOW, True

    def last_at() -> datetime:
        return Seat.objects.get(token=token).last_at

    async def story() -> None:
        nonlocal reachable
        plane = Plane()
        known = Seats(10, lambda: not reachable)
        try:
            await plane.load("token", bytes(token.digest))
            record = plane.cache.tokens.get(bytes(token.digest))
            assert isinstance(record, TokenRecord)
            request = request_of("web-1", plane)

            def until(now: datetime) -> datetime | None:
                return known.demand(record, request, now)

            with pytest.raises(KeyturnError) as unnamed:
                known.demand(record, request_of("", plane), at)
            assert "instance" in unnamed.value.fields
            with pytest.raises(Unseated) as wanted:
                until(at)
            assert await known.take(wanted.value, at) is None
            assert until(at) == until(at + seats.NOTED - SECOND) == at + seats.NOTED
            await known.close()
            assert await workers.run(last_at) == at, "it was noted a moment ago"
            # Due: answered from memory, and moved.
            late = at + seats.NOTED
            assert until(late) == late
            await known.close()
            assert await workers.run(last_at) == late
            assert until(late) == late + seats.NOTED
            # The database is away: the seat lasts for its time, and no longer.
            reachable = False
            end = late + seats.KEPT
            assert until(end - SECOND) == late + seats.NOTED
            await known.close()
            with pytest.raises(Unseated) as late_comer:
                until(end)
            assert isinstance(await known.take(late_comer.value, end), OperationalError)
        finally:
            await plane.close()

    serving(story)


def request_of(instance: str, plane: Plane) -> Request:
    return Request("GET", Route("/", Endpoint.KEY), "seats-test", {}, None, instance, "", None, plane.tally())
