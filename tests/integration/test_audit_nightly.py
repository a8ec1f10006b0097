"""The nightly proof of the audit trail: what is whole is noted, and anything else is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from keyvault import audit, clock
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, AuditHead, Heartbeat
from keyvault.services import quarantine
from rotation.notice_rows import Channel
from rotation.services import anchoring
from rotation.services.proving import PROVED, Verdict, prove_nightly
from tests.integration.furniture import without_guards
from tests.integration.telling import Telling, telling

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
Told = tuple[Channel, Channel]


@pytest.fixture
def t(data_dir: Path, settings: Any) -> Iterator[Telling]:
    with telling(settings) as built:
        yield built


@pytest.fixture
def told(t: Telling) -> Told:
    """A channel of a team, and one of the organisation."""
    return t.channel("own"), t.channel("everybodys", own=False)


def test_an_intact_trail_is_noted_and_nobody_is_told(t: Telling, told: Told) -> None:
    assert prove_nightly(t.now) is Verdict.INTACT
    assert Heartbeat.objects.get(name=PROVED).at == t.now
    assert [channel.notices.count() for channel in told] == [0, 0]


def test_a_changed_trail_is_told_once_a_day_to_the_organisation(t: Telling, told: Told) -> None:
    with without_guards():
        AuditEvent.objects.filter(sequence=3).update(reason="another one")
    for _ in range(2):
        assert prove_nightly(t.now) is Verdict.TAMPERED
    assert not Heartbeat.objects.filter(name=PROVED).exists()
    own, everybodys = told
    assert own.notices.count() == 0
    assert [notice.kind for notice in everybodys.notices.all()] == ["keyturn.audit_unproved"]
    t.send()
    said = t.web.posted[-1].body.decode()
    assert "tampered" in said
    assert "Event 3 is not as it was written" in said
    prove_nightly(t.now + DAY)
    assert everybodys.notices.count() == 2


def test_the_end_of_the_trail_is_anchored_before_it_is_proved(t: Telling, told: Told) -> None:
    """Another host may have kept the newest checkpoints."""
    anchoring.keep(t.now)
    audit.record("team:created", actor=SYSTEM, now=t.now, team="t")
    assert prove_nightly(t.now + DAY) is Verdict.INTACT


def test_an_end_that_nobody_can_anchor_is_told(t: Telling, told: Told, data_dir: Path) -> None:
    (data_dir / "checkpoints").write_text("a file where the folder should be")
    assert prove_nightly(t.now + DAY) is Verdict.UNANCHORED
    assert [channel.notices.count() for channel in told] == [0, 1]


def test_a_trail_that_was_cut_off_is_told(t: Telling, told: Told) -> None:
    assert prove_nightly(t.now) is Verdict.INTACT
    with without_guards():
        removed, kept = AuditEvent.objects.order_by("-sequence")[:2]
        removed.delete()
        AuditHead.objects.update(sequence=kept.sequence, mac=kept.mac)
    assert prove_nightly(t.now + DAY) is Verdict.TAMPERED


def test_figures_say_when_it_was_proved_and_what_is_held_back(t: Telling, told: Told, client: Client) -> None:
    def figures() -> dict[str, float]:
        lines = client.get("/metrics").content.decode().splitlines()
        return {
            name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[0] != "#")
        }

    assert figures()["keyturn_audit_proved_age_seconds"] == -1
    prove_nightly(clock.now() - DAY)
    quarantine.hold(t.house.prod, "a test", sequence=1, now=t.now)
    after = figures()
    assert after["keyturn_audit_proved_age_seconds"] == pytest.approx(86400, abs=60)
    assert (after["keyturn_quarantined"], after["keyturn_keys_quarantined"]) == (0, 1)
    quarantine.hold_everything("a test", sequence=1, now=t.now)
    assert figures()["keyturn_quarantined"] == 1
