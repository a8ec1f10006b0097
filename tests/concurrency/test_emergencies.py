"""Many schedulers, many buttons: each key of an emergency starts once, and the cap holds."""

from __future__ import annotations

from typing import Any

import pytest

from keyvault.actors import SYSTEM
from rotation.models import EmergencyItem, EmergencyRun, Rotation
from rotation.services import radius, runs
from tests.integration.furniture import NOW, at_once, broken_at, furnish, raised, returned

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]


def drawn_for(scope: str, name: str) -> radius.Radius:
    targets, tokens, subject = radius.chosen(SYSTEM, scope, name)
    return radius.radius(SYSTEM, targets, tokens, scope=scope, subject=subject, mode="replace", now=NOW)


def begin(drawn: radius.Radius) -> EmergencyRun:
    return runs.start(SYSTEM, drawn, count=drawn.count, plan=drawn.digest, reason="leak", now=NOW)


def carry_on() -> int:
    return runs.carry_on(NOW, ring=lambda _: None)


def furnished() -> list[str]:
    """Six keys of one provider and environment; returns the slugs of their teams."""
    made = [furnish() for _ in range(6)]
    for one in made:
        one.key()
    return [one.team.slug for one in made]


def test_the_same_start_from_many_hands_is_one_run(db: None) -> None:
    furnished()
    drawn = drawn_for("environment", "prod")
    outcomes = at_once(*[lambda: begin(drawn).id] * 8)
    assert not raised(outcomes), raised(outcomes)
    assert len(set(returned(outcomes))) == 1
    assert EmergencyItem.objects.count() == drawn.count


def test_many_schedulers_and_two_runs_start_each_key_once(db: None) -> None:
    teams = furnished()
    whole, part = drawn_for("environment", "prod"), drawn_for("team", teams[0])
    begin(whole)
    begin(part)
    outcomes = at_once(*[carry_on] * 6)
    assert not raised(outcomes), raised(outcomes)
    assert sum(returned(outcomes)) == 7
    assert Rotation.objects.count() == 6
    assert not EmergencyItem.objects.exclude(state="started").exists()
    assert broken_at() is None


def test_the_cap_holds_among_many_schedulers(db: None, settings: Any) -> None:
    settings.KEYTURN_EMERGENCY_CAP = 2
    furnished()
    begin(drawn_for("environment", "prod"))
    outcomes = at_once(*[carry_on] * 6)
    assert not raised(outcomes), raised(outcomes)
    assert Rotation.objects.count() == 2


def test_nothing_starts_after_the_stop_has_answered(db: None) -> None:
    furnished()
    run = begin(drawn_for("environment", "prod"))

    def stop() -> int:
        runs.stop(SYSTEM, run.id, reason="enough", now=NOW)
        return Rotation.objects.count()

    outcomes = at_once(stop, carry_on, carry_on)
    assert not raised(outcomes), raised(outcomes)
    assert Rotation.objects.count() == returned(outcomes)[0]
    carry_on()
    assert Rotation.objects.count() == returned(outcomes)[0]
