"""A dead token that is used again: recorded and told, and of no use to whoever wants to flood."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyvault.actors import SYSTEM
from keyvault.delivery.records import TokenRecord
from keyvault.delivery.replays import Replays
from keyvault.models import AuditEvent, ConsumerToken, Environment
from keyvault.services import consumers, replays
from rotation.notice_rows import Channel, Notice
from rotation.services import channels
from tests.integration.furniture import NOW, Furniture, furnish

pytestmark = pytest.mark.django_db
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def furniture() -> Furniture:
    return furnish()


@pytest.fixture
def token(furniture: Furniture) -> ConsumerToken:
    return furniture.reader()[0]


def listener(furniture: Furniture, slug: str, level: str) -> Channel:
    fields = {"level": level, "addresses": [f"{slug}@example.org"]}
    made = channels.create_channel(
        SYSTEM, slug=slug, team=furniture.team, kind="mail", url=None, fields=fields, now=NOW
    )
    return made.channel


def use(token: ConsumerToken, now: datetime, address: str = "192.0.2.1") -> bool:
    return replays.record(token.id, address=address, now=now)


def test_a_revoked_token_is_told_of_once_an_hour_and_noticed_once_a_day(
    furniture: Furniture, token: ConsumerToken
) -> None:
    heard = [listener(furniture, level, level) for level in ("owner", "lead", "security")]
    consumers.revoke_token(SYSTEM, token, now=NOW)
    assert [use(token, NOW + minutes * timedelta(minutes=1)) for minutes in range(1, 70, 10)] == [
        True, *[False] * 5, True
    ]  # fmt: skip
    event = AuditEvent.objects.filter(name=replays.EVENT).earliest("sequence")
    assert (event.team_id, event.subject) == (furniture.team.id, str(token.id))
    assert event.details == {
        "consumer": token.consumer.slug,
        "hint": token.hint,
        "why": "revoked",
        "since": NOW.isoformat(),
        "address": "192.0.2.1",
    }
    told = Notice.objects.filter(kind="token.replayed")
    assert sorted(told.values_list("channel__slug", flat=True)) == sorted(one.slug for one in heard)
    assert told[0].sequence == event.sequence
    assert told[0].facts["place"] == "192.0.2.1"
    assert use(token, NOW + DAY)
    assert told.count() == 2 * len(heard)


def test_a_replaced_token_is_told_of_after_its_grace(token: ConsumerToken) -> None:
    consumers.rotate_token(SYSTEM, token, grace=HOUR, now=NOW)
    assert not use(token, NOW + HOUR / 2)
    assert use(token, NOW + HOUR)
    assert AuditEvent.objects.get(name=replays.EVENT).details["why"] == "superseded"


def test_what_lives_what_ran_out_and_what_never_was_is_no_news(token: ConsumerToken) -> None:
    assert not use(token, NOW)
    assert token.expires_at is not None
    assert not use(token, token.expires_at + HOUR)
    token.id = Environment.objects.first().id  # type: ignore[union-attr]
    assert not use(token, NOW)
    assert not AuditEvent.objects.filter(name=replays.EVENT).exists()


def test_many_dead_tokens_do_not_flood_the_audit(furniture: Furniture, monkeypatch: Any) -> None:
    monkeypatch.setattr(replays, "MOST", 3)
    environment, consumer = furniture.environment(), furniture.consumer()
    made = [
        consumers.create_token(SYSTEM, consumer, environment, expires_at=None, now=NOW)[0] for _ in range(5)
    ]
    for one in made:
        consumers.revoke_token(SYSTEM, one, now=NOW)
    assert [use(one, NOW + HOUR) for one in made] == [True] * 3 + [False] * 2
    assert use(made[4], NOW + 2 * HOUR)


# In memory -----------------------------------------------------------------------------------------


def record(number: int) -> TokenRecord:
    return TokenRecord(
        id=number.to_bytes(16, "big"),
        consumer_id=b"",
        consumer="web",
        team_id=None,  # type: ignore[arg-type]
        environment_id=b"",
        environment="prod",
        hint="",
        networks=(),
        rate_per_minute=1,
        instance_limit=None,
        expires_at=None,
        revoked_at=datetime.now(UTC),
    )


def test_one_is_sent_for_all_that_waits_and_each_token_waits_once() -> None:
    seen = Replays()
    assert seen.note(record(1), "192.0.2.1", NOW)
    assert not any(seen.note(record(number), None, NOW) for number in (1, 2, 1, 2))
    assert [one.address for one in seen.take()] == ["192.0.2.1", ""]
    assert not seen.note(record(3), None, NOW), "the one who was sent takes it along"
    taken = seen.take()
    assert len(taken) == 1
    assert seen.take() == []
    assert not seen.note(record(3), None, NOW)
    seen.forget(taken)
    assert seen.note(record(3), None, NOW), "it could not be told, so it is noted again"
    assert len(seen.take()) == 1
    assert seen.take() == []
    assert seen.note(record(1), None, NOW + replays.EVERY)


def test_memory_is_bounded() -> None:
    seen = Replays()
    for number in range(20_000):
        seen.note(record(number), None, NOW)
        if number % 50 == 0:
            seen.take()
    assert len(seen._noted) == 10_000
    for number in range(30_000, 31_000):
        seen.note(record(number), None, NOW)
    assert len(seen.take()) <= 100
