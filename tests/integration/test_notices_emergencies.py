"""Emergencies and drift are told to whom they concern, once, with what is left and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.models import Key, KeyVersion, Provider, Team
from rotation.models import EmergencyRun, Finding
from rotation.notice_rows import Channel, Notice
from rotation.services import announcing, leaks, radius, runs, ticking
from tests.browser.furniture import plain_key
from tests.integration.console import SECRET, add_service
from tests.integration.telling import NOW, Telling, person, telling

pytestmark = pytest.mark.django_db


@pytest.fixture
def t(settings: Any) -> Iterator[Telling]:
    with telling(settings) as built:
        yield built


@pytest.fixture
def security(t: Telling) -> Channel:
    """The organisation's: on the highest level, and not before four hours of an incident."""
    return t.channel("security", level="security", after=timedelta(hours=4), own=False)


def other_key() -> Key:
    """A key of another team at the same provider."""
    return plain_key(
        add_service(Team.objects.get(slug="shop"), "checkout", NOW), "prod", "shop-secret", now=NOW
    )


def start(t: Telling, scope: str = "provider", name: str = "internal") -> EmergencyRun:
    targets, tokens, subject = radius.chosen(SYSTEM, scope, name)
    drawn = radius.radius(SYSTEM, targets, tokens, scope=scope, subject=subject, mode="replace", now=t.now)
    return runs.start(SYSTEM, drawn, count=drawn.count, plan=drawn.digest, reason="typed by hand", now=t.now)


def beat(t: Telling) -> None:
    """The scheduler; no worker does what it rings for."""
    ticking.tick(t.now, ring=lambda _: None)


def revoke_all() -> None:
    KeyVersion.objects.update(state="revoked", revoked_at=NOW)


def data(channel: Channel, kind: str) -> dict[str, Any]:
    return dict(Notice.objects.get(channel=channel, kind=kind).facts)


def test_each_team_hears_of_its_own_keys_and_the_organisation_of_all(t: Telling, security: Channel) -> None:
    other_key()
    media = t.channel("media", level="lead", after=timedelta(hours=1))
    run = start(t)
    assert data(media, "emergency.started")["names"] == ["background-removal/prod v1"]
    told = data(security, "emergency.started")
    assert (told["items"], told["waiting"], told["left"]) == (2, 2, 2)
    assert told["names"] == ["background-removal/prod v1", "checkout/prod v1"]
    t.send()
    event = json.loads(t.web.posted[-1].body)
    assert event["data"]["url"] == f"https://keys.example.org/emergency/{run.id}/"
    assert "typed by hand" not in t.web.posted[-1].body.decode()


def test_stop_and_resume_tell_who_and_what_is_left(t: Telling, security: Channel) -> None:
    run = start(t)
    runs.stop(person("ada"), run.id, reason="by mistake", now=t.now)
    runs.stop(person("ada"), run.id, reason="by mistake", now=t.now)
    told = data(security, "emergency.stopped")
    assert (told["who"], told["waiting"], told["left"]) == ("ada", 1, 1)
    runs.resume(person("ada"), run.id, reason="after all", now=t.now)
    assert t.kinds(security) == ["emergency.started", "emergency.stopped", "emergency.started"]
    assert Notice.objects.filter(facts__code="resumed").get().facts["who"] == "ada"


def test_the_end_says_what_is_left_at_the_provider(t: Telling, security: Channel) -> None:
    other_key()
    run = start(t)
    KeyVersion.objects.filter(key__service__slug="checkout").update(state="revoked", revoked_at=NOW)
    run.items.update(state="refused")
    beat(t)
    beat(t)
    told = data(security, "emergency.finished")
    assert (told["items"], told["left"], told["names"]) == (2, 1, ["background-removal/prod v1"])
    t.send()
    body = json.loads(t.web.posted[-1].body)["data"]
    assert body["subject"] == "Emergency over, 1 left: the keys of the provider internal"
    assert "revoke them by hand" in body["advice"]


def test_an_end_without_anything_left(t: Telling, security: Channel) -> None:
    run = start(t)
    run.items.update(state="skipped")
    revoke_all()
    beat(t)
    t.send()
    subject = json.loads(t.web.posted[-1].body)["data"]["subject"]
    assert subject == "Emergency over, all of it is dead: the keys of the provider internal"


def test_a_standstill_is_told_once_until_something_moves(t: Telling, security: Channel) -> None:
    run = start(t)
    beat(t)
    t.tick(minutes=29)
    assert "emergency.stuck" not in t.kinds(security)
    t.tick(minutes=1)
    for _ in range(3):
        t.tick(minutes=20)
    assert t.kinds(security).count("emergency.stuck") == 1
    assert data(security, "emergency.stuck")["since"] == NOW.isoformat()
    runs.stop(person("ada"), run.id, reason="wait", now=t.now)
    runs.resume(person("ada"), run.id, reason="go on", now=t.now)
    t.tick(minutes=29)
    assert t.kinds(security).count("emergency.stuck") == 1
    t.tick(minutes=1)
    t.tick()
    assert t.kinds(security).count("emergency.stuck") == 2


def test_a_run_that_is_over_does_not_stand_still(t: Telling, security: Channel) -> None:
    run = start(t)
    runs.stop(person("ada"), run.id, reason="by mistake", now=t.now)
    t.tick(hours=2)
    assert "emergency.stuck" not in t.kinds(security)


def test_a_reported_leak_is_told_to_those_who_must_confirm_it(t: Telling, security: Channel) -> None:
    media = t.channel("media")
    shop = other_key()
    leaks.report(person("stranger"), Secret(SECRET), reason="on a pastebin", now=t.now)
    leaks.report(person("stranger"), Secret(SECRET), reason="again", now=t.now)
    assert t.kinds(media) == t.kinds(security) == ["emergency.proposed"]
    assert data(media, "emergency.proposed")["names"] == ["background-removal/prod v1"]
    t.send()
    for posted in t.web.posted:
        assert SECRET.encode() not in posted.body
        assert b"pastebin" not in posted.body
        assert shop.service.slug.encode() not in posted.body


# Drift ---------------------------------------------------------------------------------------------


def finding(t: Telling, kind: str, **more: Any) -> Finding:
    key = t.house.prod if kind in ("missing", "undead") else None
    version = key.current if key is not None else None
    row = Finding.objects.create(
        provider=Provider.objects.get(slug="internal"), key=key, version=version, kind=kind,
        detail="the provider says so", found_at=t.now, seen_at=t.now, **more,
    )  # fmt: skip
    announcing.tell_drift(row, t.now)
    return row


@pytest.mark.parametrize(
    ("kind", "owners", "leads", "organisation"),
    [("missing", 1, 0, 0), ("undead", 1, 1, 1), ("unowned", 0, 0, 1), ("unchecked", 0, 0, 1)],
)
def test_who_hears_of_which_difference(
    t: Telling, security: Channel, kind: str, owners: int, leads: int, organisation: int
) -> None:
    team = [t.channel("owners"), t.channel("leads", level="lead", after=timedelta(hours=1))]
    row = finding(t, kind, provider_key_id="k-17")
    announcing.tell_drift(row, t.now)
    counts = [channel.notices.filter(kind="drift.found").count() for channel in (*team, security)]
    assert counts == [owners, leads, organisation]


@pytest.mark.parametrize(
    ("kind", "subject", "advice"),
    [
        ("missing", "background-removal/prod: the provider has lost v1", "start a rotation"),
        ("undead", "background-removal/prod: v1 was revoked and lives", "Revoke it"),
        ("unowned", "Keyturn: a key that nobody owns", "Find whose it is"),
        ("unchecked", "Keyturn: could not be compared with the provider", "look again"),
    ],
)
def test_a_difference_says_what_to_do(t: Telling, kind: str, subject: str, advice: str) -> None:
    t.channel("owners", own=False)
    Provider.objects.filter(slug="internal").update(name="Keyturn")
    finding(t, kind, label="keyturn-x-1")
    t.send()
    told = json.loads(t.web.posted[-1].body)["data"]
    assert told["subject"] == subject
    assert advice in told["advice"]
    assert told["provider_key"] == "keyturn-x-1"
