"""Who is told what and when: owners, leads, security; approvals; the daily message; the scheduler's end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyvault.models import Heartbeat, KeyVersion
from rotation import engine
from rotation.models import Rotation, RotationPolicy
from rotation.notice_rows import Channel, Incident, Notice
from rotation.policy import to_json
from rotation.services import notifying, policies, verbs
from tests.integration.telling import NOW, Telling, give_mail, person, telling

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def t(settings: Any) -> Iterator[Telling]:
    with telling(settings) as built:
        yield built


@pytest.fixture
def ladder(t: Telling) -> list[Channel]:
    """A channel on each level; leads hear after an hour, security after four."""
    return [
        t.channel("owners"),
        t.channel("leads", level="lead", after=HOUR),
        t.channel("security", level="security", after=4 * HOUR, own=False),
    ]


def told(channels: list[Channel]) -> list[list[str]]:
    kinds = [list(channel.notices.values_list("kind", flat=True)) for channel in channels]
    return [[kind for kind in found if kind != "rotation.started"] for found in kinds]


ATTENTION = ["rotation.attention"]


# Escalation ---------------------------------------------------------------------------------------


def test_owner_then_lead_then_security_each_once(t: Telling, ladder: list[Channel]) -> None:
    t.attention(t.house.start())
    t.tick()
    assert told(ladder) == [ATTENTION, [], []]
    t.tick(minutes=59)
    assert told(ladder) == [ATTENTION, [], []]
    t.tick(minutes=1)
    assert told(ladder) == [ATTENTION, ATTENTION, []]
    for _ in range(5):
        t.tick(minutes=35)
    assert told(ladder) == [ATTENTION, ATTENTION, []]
    t.tick(minutes=10)
    assert told(ladder) == [ATTENTION, ATTENTION, ATTENTION]
    for _ in range(5):
        t.tick(hours=10)
    assert told(ladder) == [ATTENTION, ATTENTION, ATTENTION]
    incident = Incident.objects.get()
    assert (incident.level, incident.next_at) == ("security", None)
    escalations = Rotation.objects.get().events.filter(name="escalated")
    assert escalations.count() == 2


def test_an_escalation_says_how_long_nobody_has_acted(t: Telling, ladder: list[Channel]) -> None:
    t.attention(t.house.start())
    t.tick()
    t.tick(hours=1)
    event = json.loads(t.web.posted[-1].body)
    assert event["data"]["level"] == "lead"
    assert event["data"]["since"] == NOW.isoformat()
    assert event["data"]["subject"] == "Escalated: background-removal/prod: a person must act"


@pytest.mark.parametrize("name", ["attention:cleared", "rollback", "finished"])
def test_what_ends_by_itself_is_not_escalated(t: Telling, ladder: list[Channel], name: str) -> None:
    rotation = t.house.start()
    t.attention(rotation)
    t.event(rotation, name)
    t.tick(hours=9)
    assert told(ladder)[1:] == [[], []]


def test_a_person_who_acts_on_the_rotation_stops_it(t: Telling, ladder: list[Channel]) -> None:
    rotation = t.house.start()
    t.attention(rotation)
    t.tick(hours=1)
    verbs.resume(person("otto"), rotation.id, reason="looked at it", now=t.now, ring=lambda _: None)
    assert Incident.objects.get().closed_by == "otto"
    t.tick(hours=9)
    assert told(ladder)[2] == []


def test_new_trouble_is_a_new_incident(t: Telling, ladder: list[Channel]) -> None:
    rotation = t.house.start()
    t.attention(rotation)
    t.event(rotation, "attention:cleared")
    t.attention(rotation, "overdue")
    t.tick(hours=1)
    assert told(ladder) == [ATTENTION * 2, ATTENTION, []]
    assert Incident.objects.filter(closed_at__isnull=True).count() == 1


def test_a_channel_that_comes_later_still_hears_of_it(t: Telling) -> None:
    t.attention(t.house.start())
    t.tick(hours=2)
    late = t.channel("leads", level="lead", after=HOUR)
    t.tick()
    assert told([late]) == [ATTENTION]


def test_a_level_without_a_mail_box_is_not_asked_for_ever(t: Telling) -> None:
    t.channel("leads", "mail", level="lead", after=HOUR)
    rotation = t.house.start()
    t.attention(rotation)
    for _ in range(5):
        t.tick(hours=1)
    assert rotation.events.filter(name="escalated").count() == 1


def test_levels_of_mail_are_people_by_their_role(t: Telling) -> None:
    give_mail(otto="otto@example.org", lena="lena@example.org", ada="ada@example.org", vito="v@example.org")
    t.channel("owners", "mail")
    t.channel("leads", "mail", level="lead", after=HOUR)
    t.channel("security", "mail", level="security", after=2 * HOUR, own=False)
    t.attention(t.house.start())
    for _ in range(3):
        t.tick(hours=1)
    plain, escalated = (f"{mark}background-removal/prod: a person must act" for mark in ("", "Escalated: "))
    assert t.mail.subjects_to("otto@example.org")[1:] == [plain]
    assert t.mail.subjects_to("lena@example.org") == [escalated]
    assert t.mail.subjects_to("ada@example.org") == [escalated]
    assert t.mail.subjects_to("v@example.org") == []


# Late, and standing still -------------------------------------------------------------------------


def test_a_late_rotation_is_told_although_it_is_paused(t: Telling, ladder: list[Channel]) -> None:
    rotation = t.house.start()
    Rotation.objects.filter(pk=rotation.pk).update(paused=True, deadline_at=t.now + HOUR)
    t.tick(minutes=59)
    assert told(ladder) == [[], [], []]
    t.tick(minutes=1)
    t.tick(minutes=1)
    assert told(ladder) == [["rotation.late"], [], []]
    t.tick(hours=1)
    assert told(ladder) == [["rotation.late"], ["rotation.late"], []]


def test_once_somebody_took_note_it_is_late_again_only_after_the_next_deadline(t: Telling) -> None:
    owners = t.channel("owners")
    rotation = t.house.start()
    Rotation.objects.filter(pk=rotation.pk).update(deadline_at=t.now)
    t.tick()
    t.event(rotation, "resumed", actor=person("otto"))
    t.tick(hours=3)
    assert told([owners]) == [["rotation.late"]]
    Rotation.objects.filter(pk=rotation.pk).update(deadline_at=t.now + HOUR)
    t.tick(hours=1)
    assert told([owners]) == [["rotation.late"] * 2]


def standing(rotation: Rotation, **more: Any) -> None:
    fields = {"verdict": "hold", "verdict_code": "provider_incident", "waiting_for": "both keys fail", **more}
    # Straight into the row: how a rotation gets there is the engine's business.
    for stage in ("deploy", "shift"):
        Rotation.objects.filter(pk=rotation.pk).update(stage=stage)
    Rotation.objects.filter(pk=rotation.pk).update(**fields)


def test_a_clock_that_stands_still_is_told_once_and_escalated(t: Telling, ladder: list[Channel]) -> None:
    standing(t.house.start())
    t.tick()
    t.tick(minutes=29)
    assert told(ladder) == [[], [], []]
    t.tick(minutes=1)
    assert told(ladder) == [["rotation.stands"], [], []]
    event = json.loads(t.web.posted[-1].body)
    assert event["data"]["code"] == "provider_incident"
    assert event["data"]["reason"] == "both keys fail"
    assert event["data"]["since"] == NOW.isoformat()
    t.tick(minutes=30)
    assert told(ladder) == [["rotation.stands"], ["rotation.stands"], []]


def test_one_that_goes_on_in_time_is_not_mentioned(t: Telling, ladder: list[Channel]) -> None:
    rotation = t.house.start()
    standing(rotation)
    t.tick()
    Rotation.objects.filter(pk=rotation.pk).update(verdict="pass")
    t.tick(minutes=20)
    standing_again = Rotation.objects.filter(pk=rotation.pk)
    standing_again.update(verdict="inconclusive")
    t.tick(minutes=20)
    assert told(ladder) == [[], [], []], "its patience began anew"


def test_an_old_key_in_use_is_told_with_the_names_before_the_deadline(t: Telling) -> None:
    owners = t.channel("owners")
    waiting = "outgoing version still in use by billing/web-7: last seen on v1 13 min ago"
    rotation = t.house.start()
    standing(rotation, verdict="pass", waiting_code="quiet", waiting_for=waiting)
    t.tick()
    t.tick(minutes=30)
    assert told([owners]) == [["rotation.stands"]]
    event = json.loads(t.web.posted[-1].body)["data"]
    assert event["reason"] == waiting
    assert event["advice"].startswith("Restart or update the instances")


# Approvals ----------------------------------------------------------------------------------------


def test_who_may_approve_is_told_and_not_the_one_who_asked(t: Telling) -> None:
    give_mail(
        otto="otto@example.org", lena="lena@example.org", vito="vito@example.org", ada="ada@example.org"
    )
    people = t.channel("post", "mail")
    listed = t.channel("list", "mail", addresses=["otto@example.org", "duty@example.org"])
    document = {**to_json(RotationPolicy.objects.get(slug="standard").value), "approvals": {"start": 1}}
    row = RotationPolicy.objects.create(
        slug="careful", document=to_json(policies.read_policy(document)), created_at=t.now
    )
    from rotation.services import starting

    rotation = starting.start(person("otto"), t.house.prod, policy=row, reason="x", now=t.now)
    for _ in range(3):
        t.now += timedelta(minutes=1)
        engine.advance(rotation.id, t.now, ring=lambda _: None)
    wanted = Notice.objects.filter(kind="rotation.approval_wanted")
    assert set(wanted.values_list("channel__slug", "recipient")) == {
        (people.slug, "lena@example.org"),
        (listed.slug, "duty@example.org"),
    }
    assert rotation.events.filter(name="approval:wanted").count() == 1
    t.send()
    assert "background-removal/prod: approval wanted" in t.mail.subjects_to("lena@example.org")
    assert "otto cannot approve it." in t.mail.everything


# Digest -------------------------------------------------------------------------------------------


def test_a_daily_message_gathers_what_can_wait_and_holds_up_nothing_else(t: Telling) -> None:
    channel = t.channel("room", "chat", digest_at="08:00", zone="Europe/Berlin")
    rotation = t.house.start()
    t.attention(rotation)
    assert t.send() == 1
    assert "a person must act" in json.loads(t.web.posted[0].body)["text"]
    t.now = NOW.replace(day=7, hour=5, minute=59)
    assert t.send() == 0
    t.now = NOW.replace(day=7, hour=6, minute=0)
    assert t.send() == 1
    assert "rotation started" in json.loads(t.web.posted[1].body)["text"]
    assert set(channel.notices.values_list("state", flat=True)) == {"sent"}


def test_two_that_wait_are_one_message(t: Telling) -> None:
    t.channel("room", "chat", digest_at="08:00", zone="UTC")
    rotation = t.house.start()
    Rotation.objects.filter(pk=rotation.pk).update(stage="cancelled", finished_at=t.now)
    t.event(rotation, "finished", stage="cancelled")
    t.now += timedelta(days=1)
    assert t.send() == 1
    text = json.loads(t.web.posted[0].body)["text"]
    assert text.startswith("*Keyturn: 2 notices*\n1. background-removal/prod: rotation started")


# What no rotation tells ---------------------------------------------------------------------------


def test_a_version_that_expires_is_told_at_14_3_and_1_days(t: Telling) -> None:
    owners = t.channel("owners")
    leads = t.channel("leads", level="lead")
    version = t.house.prod.current
    assert version is not None
    KeyVersion.objects.filter(pk=version.pk).update(expires_at=t.now + timedelta(days=20))
    seen = []
    for _ in range(21):
        t.tick(days=1)
        seen.append((owners.notices.count(), leads.notices.count()))
    assert seen == [(0, 0)] * 5 + [(1, 0)] * 11 + [(2, 0)] * 2 + [(3, 1)] * 3


def test_a_dead_scheduler_is_told_once_by_whoever_sees_it(t: Telling, client: Any, settings: Any) -> None:
    from keyvault import clock

    own, everybodys = t.channel("own"), t.channel("everybodys", own=False)
    Heartbeat.objects.create(name="beat", at=clock.now() - timedelta(minutes=10))
    for _ in range(3):
        assert client.get("/readyz").status_code == 503
    assert [own.notices.count(), everybodys.notices.count()] == [0, 1]
    Heartbeat.objects.filter(name="beat").update(at=clock.now() - timedelta(minutes=5))
    client.get("/readyz")
    assert everybodys.notices.count() == 2, "it ran, and died again"
    assert set(everybodys.notices.values_list("kind", flat=True)) == {"keyturn.beat_dead"}


def test_one_part_of_the_beat_that_fails_does_not_stop_the_others(
    t: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(now: object) -> None:
        raise RuntimeError("broken")

    owners = t.channel("owners")
    rotation = t.house.start()
    Rotation.objects.filter(pk=rotation.pk).update(deadline_at=t.now)
    monkeypatch.setattr(notifying, "tell_expiring", broken)
    assert owners.id in t.tick()
    assert set(owners.notices.values_list("state", flat=True)) == {"sent"}
