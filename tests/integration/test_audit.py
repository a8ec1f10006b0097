"""The audit chain: every event is there, in order, unchanged, and holds nothing that it should not."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, AuditHead
from keyvault.services import keys, people
from tests.integration.furniture import (
    NOW,
    Furniture,
    at_once,
    broken_at,
    fresh_secret,
    furnish,
    raised,
    without_guards,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def record_some(n: int = 5) -> list[int]:
    return [
        audit.record(
            "team:created", actor=SYSTEM, now=NOW + timedelta(seconds=i), reason=f"r{i}", team=f"t{i}"
        ).sequence
        for i in range(n)
    ]


def test_the_chain_of_real_work_verifies_by_recomputation(furniture: Furniture) -> None:
    secret = fresh_secret()
    key = furniture.key(secret=secret)
    keys.set_never_shown(SYSTEM, key, never_shown=True, now=NOW)
    furniture.reader()
    assert AuditEvent.objects.count() >= 8
    assert broken_at() is None
    text = json.dumps(list(AuditEvent.objects.values("details", "reason", "subject", "actor")))
    assert secret.expose() not in text


TAMPERINGS: dict[str, dict[str, Any]] = {
    "at": {"at": NOW + timedelta(days=1)},
    "name": {"name": "team:member:set"},
    "actor kind": {"actor_kind": "user"},
    "actor": {"actor": "somebody"},
    "team": {"team_id": "00000000-0000-0000-0000-000000000001"},
    "service": {"service": "another"},
    "environment": {"environment": "dev"},
    "subject": {"subject": "another"},
    "reason": {"reason": "a better one"},
    "details": {"details": {"team": "another"}},
    "a detail more": {"details": {"team": "t2", "extra": 1}},
    "request": {"request_id": "another"},
    "mac": {"mac": b"\0" * 32},
    "sequence": {"sequence": 900},
}


@pytest.mark.parametrize("columns", TAMPERINGS.values(), ids=TAMPERINGS)
def test_every_column_of_an_event_is_in_the_chain(furniture: Furniture, columns: dict[str, Any]) -> None:
    sequence = record_some()[2]
    assert broken_at() is None
    with without_guards():
        assert AuditEvent.objects.filter(pk=sequence).update(**columns) == 1
    assert broken_at() == sequence


def test_taking_out_an_event_is_seen(furniture: Furniture) -> None:
    sequences = record_some()
    with without_guards():
        AuditEvent.objects.filter(pk=sequences[1]).delete()
    assert broken_at() == sequences[1]


def test_cutting_off_the_end_is_seen_by_the_head(furniture: Furniture) -> None:
    sequences = record_some()
    with without_guards():
        AuditEvent.objects.filter(pk__gte=sequences[3]).delete()
    assert broken_at() == sequences[3]


def test_swapping_two_events_is_seen(furniture: Furniture) -> None:
    sequences = record_some()
    first, second = (AuditEvent.objects.get(pk=sequence) for sequence in sequences[1:3])
    with without_guards():
        AuditEvent.objects.filter(pk=first.pk).update(details=second.details, at=second.at, mac=second.mac)
        AuditEvent.objects.filter(pk=second.pk).update(details=first.details, at=first.at, mac=first.mac)
    assert broken_at() == sequences[1]


def test_an_event_that_was_invented_is_seen(furniture: Furniture) -> None:
    last = record_some()[-1]
    AuditEvent.objects.create(sequence=last + 1, at=NOW, name="team:created", details={}, mac=b"\1" * 32)
    AuditHead.objects.update(sequence=last + 1, mac=b"\1" * 32)
    assert broken_at() == last + 1


def test_a_detail_that_nobody_listed_is_an_error(furniture: Furniture) -> None:
    before = AuditEvent.objects.count()
    with pytest.raises(ValueError, match="secret"):
        audit.record("key:version:imported", actor=SYSTEM, now=NOW, version=1, secret="sk-1")
    with pytest.raises(KeyError):
        audit.record("key:borrowed", actor=SYSTEM, now=NOW)
    assert AuditEvent.objects.count() == before


def test_no_event_may_carry_a_secret_by_name() -> None:
    listed = {detail for details in audit.EVENTS.values() for detail in details}
    assert not listed & {"secret", "token", "key", "password", "ciphertext", "digest", "value"}


def test_an_event_carries_the_id_of_its_request(furniture: Furniture) -> None:
    with structlog.contextvars.bound_contextvars(request_id="request-1234"):
        event = audit.record("team:created", actor=SYSTEM, now=NOW)
    assert AuditEvent.objects.get(pk=event.pk).request_id == "request-1234"
    assert broken_at() is None


def test_times_of_any_precision_and_zone_verify(furniture: Furniture) -> None:
    for at in (NOW, NOW + timedelta(microseconds=1), datetime.fromisoformat("2026-03-02T10:00:00.5+01:00")):
        audit.record("team:created", actor=SYSTEM, now=at)
    assert broken_at() is None


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_leave_no_gap_and_one_chain(transactional_db: None) -> None:
    furnish()
    writers, each = 8, 12
    before = AuditHead.objects.get().sequence

    def write(writer: int) -> int:
        dice = random.Random(writer)
        for i in range(each):
            people.create_team(SYSTEM, slug=f"w{writer}-{i}-{dice.randrange(10**6)}", name="", now=NOW)
        return each

    outcomes = at_once(*(lambda w=w: write(w) for w in range(writers)))
    assert not raised(outcomes)
    assert sum(outcome for outcome in outcomes if isinstance(outcome, int)) == writers * each
    assert list(AuditEvent.objects.order_by("sequence").values_list("sequence", flat=True)) == list(
        range(1, before + writers * each + 1)
    )
    assert broken_at() is None
