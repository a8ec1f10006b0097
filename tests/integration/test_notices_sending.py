"""Notices reach real receivers: at least once, in order, signed, retried, and given up in the end."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from keyvault.actors import SYSTEM
from rotation import engine
from rotation.models import Rotation
from rotation.notice_rows import Channel, Notice
from rotation.notices import delivering
from rotation.notices.senders import Sent
from rotation.services import channels
from tests.integration.receivers import Posted
from tests.integration.telling import Telling, give_mail, notice, telling

pytestmark = pytest.mark.django_db


@pytest.fixture
def t(settings: Any) -> Iterator[Telling]:
    with telling(settings) as built:
        yield built


def events(t: Telling) -> list[Any]:
    return [json.loads(posted.body) for posted in t.web.posted]


def verified(secret: str, posted: Posted, *, now: float, tolerance: int = 300) -> bool:
    """A receiver written after the public description only."""
    moment = int(posted.headers["webhook-timestamp"])
    if abs(now - moment) > tolerance:
        return False
    key = base64.b64decode(secret[len("whsec_") :])
    signed = b".".join([posted.headers["webhook-id"].encode(), str(moment).encode(), posted.body])
    good = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    given = [part.split(",", 1) for part in posted.headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(text, good) for version, text in given)


# The row ------------------------------------------------------------------------------------------


def test_a_notice_stands_in_the_transaction_of_its_event(t: Telling) -> None:
    channel = t.channel("hook")
    rotation = t.house.start()
    assert t.kinds(channel) == ["rotation.started"]
    with transaction.atomic():
        t.attention(rotation)
        assert t.kinds(channel) == ["rotation.started", "rotation.attention"]
        transaction.set_rollback(True)
    assert t.kinds(channel) == ["rotation.started"]


def test_what_is_written_is_announced_after_the_commit_only(
    t: Telling, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[Any] = []
    monkeypatch.setattr("rotation.notices.writing._bell", rung.append)
    channel = t.channel("hook")
    with django_capture_on_commit_callbacks(execute=True):
        t.house.start()
        assert rung == []
    assert channel.id in rung


def test_a_bell_that_breaks_breaks_nothing(
    t: Telling, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(channel_id: object) -> None:
        raise OSError("no broker")

    monkeypatch.setattr("rotation.notices.writing._bell", broken)
    t.channel("hook")
    with django_capture_on_commit_callbacks(execute=True):
        rotation = t.house.start()
    assert Rotation.objects.filter(pk=rotation.pk).exists()


def test_lines_that_interest_nobody_cost_no_query(t: Telling, django_assert_num_queries: Any) -> None:
    from rotation.notices.writing import note

    t.channel("hook")
    rotation = t.house.start()
    with transaction.atomic():
        locked = engine.lock(rotation.id)
        with django_assert_num_queries(0):
            for name in ("weight", "stage", "operation", "paused"):
                note(locked, name, actor=SYSTEM, reason="", sequence=1, now=t.now)


def test_a_channel_hears_of_its_own_team_only(t: Telling) -> None:
    from keyvault.models import Team

    ours, everybodys = t.channel("ours"), t.channel("everybodys", own=False)
    theirs = channels.create_channel(
        SYSTEM, slug="theirs", team=Team.objects.get(slug="shop"), kind="mail", url=None, fields={}, now=t.now
    ).channel
    off = t.channel("off", enabled=False)
    t.house.start()
    assert [t.kinds(channel) for channel in (ours, everybodys, theirs, off)] == [
        ["rotation.started"], ["rotation.started"], [], [],
    ]  # fmt: skip


def test_the_same_thing_is_written_once_for_each_channel(t: Telling) -> None:
    from rotation.notices.kinds import Facts, NoticeKind
    from rotation.notices.writing import tell

    channel = t.channel("hook")
    for _ in range(2):
        facts = Facts(at=t.now.isoformat())
        tell([channel], NoticeKind.TEST, facts, dedup="same", team_id=channel.team_id, now=t.now)
    assert channel.notices.count() == 1


# Signed events ------------------------------------------------------------------------------------


def test_an_event_is_signed_so_that_anybody_can_verify_it(t: Telling) -> None:
    t.channel("hook")
    rotation = t.house.start()
    t.send()
    [posted] = t.web.posted
    secret = t.secrets["hook"].expose()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert verified(secret, posted, now=t.now.timestamp())
    assert not verified("whsec_" + base64.b64encode(bytes(32)).decode(), posted, now=t.now.timestamp())
    changed = Posted(posted.headers, posted.body.replace(b"prod", b"test"))
    assert not verified(secret, changed, now=t.now.timestamp())
    assert not verified(secret, posted, now=t.now.timestamp() + 301)
    event = json.loads(posted.body)
    assert event["type"] == "rotation.started"
    assert event["timestamp"] == t.now.isoformat()
    assert event["data"]["service"] == "background-removal"
    assert event["data"]["outgoing"] == 1
    assert event["data"]["url"] == f"https://keys.example.org/rotations/{rotation.id}/"
    assert posted.headers["webhook-id"] == f"msg_{Notice.objects.get().id.hex}"


def test_while_the_secret_is_replaced_both_sign_and_afterwards_the_new_one_only(t: Telling) -> None:
    channel = t.channel("hook")
    old = t.secrets["hook"].expose()
    made = channels.rotate_secret(SYSTEM, channel, grace=timedelta(hours=1), now=t.now)
    assert made.secret is not None
    new = made.secret.expose()
    assert new != old
    rotation = t.house.start()
    t.send()
    t.now += timedelta(hours=1)
    t.event(rotation, "rollback", version=1)
    t.send()
    first, second = t.web.posted
    assert verified(old, first, now=t.now.timestamp(), tolerance=7200)
    assert verified(new, first, now=t.now.timestamp(), tolerance=7200)
    assert not verified(old, second, now=t.now.timestamp())
    assert verified(new, second, now=t.now.timestamp())


# Trying again -------------------------------------------------------------------------------------


def test_a_try_that_fails_is_repeated_under_the_same_id_and_in_order(t: Telling) -> None:
    channel = t.channel("hook")
    t.web.script = [(503, {}), (500, {})]
    rotation = t.house.start()
    t.attention(rotation)
    assert t.send() == 1
    channel.refresh_from_db()
    assert channel.failing_since == t.now
    assert channel.last_error == "the other side answers 503"
    assert not t.try_once(channel), "it waits"
    for _ in range(2):
        t.now += timedelta(minutes=1)
        t.send()
    assert [event["type"] for event in events(t)] == ["rotation.started"] * 3 + ["rotation.attention"]
    assert len({posted.headers["webhook-id"] for posted in t.web.posted[:3]}) == 1
    channel.refresh_from_db()
    assert (channel.last_error, channel.last_ok_at) == ("", t.now)
    assert not Channel.objects.filter(failing_since__isnull=False).exists()
    sequences = [event["data"]["sequence"] for event in events(t)]
    assert sequences == sorted(sequences)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "120"}, 120, 120),
        ({"Date": "Mon, 06 Jul 2026 09:00:00 GMT", "Retry-After": "Mon, 06 Jul 2026 09:02:00 GMT"}, 120, 120),
        ({"Retry-After": "999999"}, 900, 900),
        ({"Retry-After": "soon"}, 0.2, 2),
    ],
)
def test_the_other_side_may_ask_for_a_pause_but_not_for_ever(
    t: Telling, headers: dict[str, str], least: float, most: float
) -> None:
    channel = t.channel("hook")
    t.web.always = (429, headers)
    t.house.start()
    t.send()
    channel.refresh_from_db()
    assert channel.wait_until is not None
    assert least <= (channel.wait_until - t.now).total_seconds() <= most


def test_after_a_day_of_failures_it_is_given_up_and_the_channel_says_why(t: Telling) -> None:
    channel = t.channel("hook", url="http://127.0.0.1:9/")  # allowed, and nobody listens
    t.house.start()
    t.send()
    assert notice(channel).state == "pending"
    t.now += timedelta(hours=24)
    t.send()
    told = notice(channel)
    channel.refresh_from_db()
    assert told.state == "failed"
    assert told.message == "given up: the connection was refused or the host is unreachable"
    assert channel.failing_since is not None
    assert channel.last_error == "the connection was refused or the host is unreachable"


def test_what_waited_for_a_day_behind_a_failing_one_goes_with_it(t: Telling) -> None:
    channel = t.channel("hook", url="http://127.0.0.1:9/")
    rotation = t.house.start()
    t.attention(rotation)
    t.send()
    t.now += timedelta(hours=25)
    t.send()
    assert set(channel.notices.values_list("state", flat=True)) == {"failed"}


def test_what_nobody_tried_is_not_given_up_for_its_age(t: Telling) -> None:
    channel = t.channel("hook")
    t.house.start()
    t.now += timedelta(days=2)
    t.send()
    assert notice(channel).state == "sent"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_other_side_cannot_take_does_not_hold_up_the_next(t: Telling, status: int) -> None:
    channel = t.channel("hook")
    t.web.script = [(status, {})]
    rotation = t.house.start()
    t.attention(rotation)
    assert t.send() == 2
    assert list(channel.notices.values_list("state", flat=True)) == ["failed", "sent"]


def test_a_receiver_that_is_gone_switches_its_channel_off(t: Telling) -> None:
    channel = t.channel("hook")
    t.web.always = (410, {})
    rotation = t.house.start()
    t.attention(rotation)
    t.send()
    channel.refresh_from_db()
    assert not channel.enabled
    assert "switched off" in channel.last_error
    assert sorted(channel.notices.values_list("state", flat=True)) == ["dropped", "failed"]


def test_a_dead_channel_holds_up_neither_the_rotation_nor_the_others(t: Telling) -> None:
    dead, alive = t.channel("dead", url="http://127.0.0.1:9/"), t.channel("alive")
    rotation = t.house.start()
    t.event(rotation, "rollback", version=1)
    t.send()
    assert set(alive.notices.values_list("state", flat=True)) == {"sent"}
    assert set(dead.notices.values_list("state", flat=True)) == {"pending"}


def test_a_redirect_is_not_followed(t: Telling) -> None:
    channel = t.channel("hook")
    t.web.script = [(302, {"Location": t.web.url})]
    t.house.start()
    t.send()
    assert len(t.web.posted) == 1
    assert notice(channel).state == "pending"


def test_an_address_that_became_forbidden_is_not_called(t: Telling, settings: Any) -> None:
    channel = t.channel("hook")
    settings.KEYTURN_EGRESS_ALLOW = frozenset()
    t.house.start()
    t.send()
    assert t.web.posted == []
    assert notice(channel).state == "failed"
    assert notice(channel).message.startswith("not allowed")


# Workers ------------------------------------------------------------------------------------------


def test_two_workers_do_not_send_the_same(t: Telling) -> None:
    channel = t.channel("hook")
    t.house.start()
    held = delivering.claim(channel.id, t.now)
    assert held is not None
    assert not t.try_once(channel)
    assert t.web.posted == []


def test_a_worker_that_died_is_followed_by_another_and_settles_nothing(t: Telling) -> None:
    channel = t.channel("hook")
    t.house.start()
    dead = delivering.claim(channel.id, t.now)
    assert dead is not None
    t.now += delivering.LEASE
    assert t.try_once(channel)
    assert len(t.web.posted) == 1
    assert not delivering.settle(dead, [notice(channel)], Sent("off", "a lie"), t.now)
    channel.refresh_from_db()
    assert channel.enabled
    assert notice(channel).state == "sent"


def test_a_month_later_it_is_forgotten(t: Telling) -> None:
    channel = t.channel("hook")
    t.house.start()
    t.send()
    assert delivering.prune(t.now + timedelta(days=29)) == 0
    assert delivering.prune(t.now + timedelta(days=30)) == 1
    assert not channel.notices.exists()


# Chat and mail ------------------------------------------------------------------------------------


def test_a_chat_gets_words_and_nobody_can_call_the_room(t: Telling) -> None:
    t.channel("room", "chat")
    rotation = t.house.start()
    Rotation.objects.filter(pk=rotation.pk).update(
        attention="stragglers", attention_reason="the outgoing key is still in use: <!channel> & web/7"
    )
    t.event(rotation, "attention", code="stragglers")
    t.send()
    text = events(t)[-1]["text"]
    assert "&lt;!channel&gt; &amp; web/7" in text
    assert "<!channel>" not in text
    assert "What to do: Restart or update the instances" in text
    assert f"https://keys.example.org/rotations/{rotation.id}/" in text
    assert "webhook-signature" not in t.web.posted[0].headers


def test_mail_goes_out_once_to_each_person(t: Telling) -> None:
    give_mail(otto="otto@example.org", lena="lena@example.org", vito="vito@example.org")
    channel = t.channel("post", "mail")
    rotation = t.house.start()
    t.attention(rotation)
    t.send()
    assert t.mail.subjects_to("otto@example.org") == [
        "background-removal/prod: rotation started",
        "background-removal/prod: a person must act",
    ]
    assert t.mail.subjects_to("lena@example.org") == [], "the operators own it; the lead comes later"
    _, message = t.mail.taken[-1]
    assert message["From"] == "keyturn@keys.example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "What to do: Revoke a key that nobody uses" in message.get_content()
    assert str(channel.notices.last().id) in message["Message-ID"]  # type: ignore[union-attr]


def test_one_bad_mail_box_does_not_stop_the_others(t: Telling) -> None:
    channel = t.channel("post", "mail", addresses=["bad@example.org", "good@example.org"])
    t.mail.refusals = {"bad@example.org": "550 nobody here"}
    t.house.start()
    t.send()
    states = dict(channel.notices.values_list("recipient", "state"))
    assert states == {"bad@example.org": "failed", "good@example.org": "sent"}
    refused = channel.notices.get(recipient="bad@example.org")
    assert refused.message == "the mail server refuses this recipient (550)"


@pytest.mark.parametrize(
    ("refusals", "state", "message"),
    [
        ({"a@example.org": "451 later"}, "pending", "the mail server refuses this recipient (451)"),
        ({"DATA": "451 later"}, "pending", "the mail server refuses this message (451)"),
        ({"DATA": "554 spam"}, "failed", "the mail server refuses this message (554)"),
    ],
)
def test_what_a_mail_server_says(t: Telling, refusals: dict[str, str], state: str, message: str) -> None:
    channel = t.channel("post", "mail", addresses=["a@example.org"])
    t.mail.refusals = refusals
    t.house.start()
    t.send()
    assert (notice(channel).state, notice(channel).message) == (state, message)


def test_a_mail_server_that_is_away_or_not_there_is_tried_again(t: Telling, settings: Any) -> None:
    channel = t.channel("post", "mail", addresses=["a@example.org"])
    t.house.start()
    settings.EMAIL_PORT, alive = 9, settings.EMAIL_PORT
    t.send()
    assert notice(channel).message == "the mail server does not answer (ConnectionRefusedError)"
    settings.EMAIL_HOST = ""
    t.now += timedelta(minutes=1)
    t.send()
    assert notice(channel).message == "mail is not set up: EMAIL_URL is empty"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", alive
    t.now += timedelta(minutes=1)
    t.send()
    assert notice(channel).state == "sent"


def test_many_at_once_become_one_message(t: Telling) -> None:
    channel = t.channel("room", "chat")
    rotation = t.house.start()
    for _ in range(delivering.MOST_AT_ONCE):
        t.event(rotation, "rollback", version=1)
    t.send()
    [event] = events(t)
    assert event["text"].startswith("*Keyturn: 6 notices*")
    assert event["text"].count("rolled back to v1") == 5
    assert set(channel.notices.values_list("state", flat=True)) == {"sent"}


def test_a_webhook_gets_every_event_by_itself(t: Telling) -> None:
    t.channel("hook")
    rotation = t.house.start()
    for _ in range(8):
        t.event(rotation, "rollback", version=1)
    t.send()
    assert len(t.web.posted) == 9


def test_a_sealed_address_moves_with_the_system_kek(data_dir: object, t: Telling) -> None:
    from keyvault.keystore import keys
    from keyvault.services import rewrap
    from tests.integration.furniture import fresh_kek

    t.channel("hook")
    before = Channel.objects.get(slug="hook").kek_kid
    kid = fresh_kek("system", now=t.now)
    moved = rewrap.rewrap_environment(SYSTEM, "system", now=t.now)
    after = Channel.objects.get(slug="hook")
    assert (before != kid, after.kek_kid, moved.broken) == (True, kid, ())
    assert keys().keks.primary("system") == kid
    t.house.start()
    t.send()
    assert len(t.web.posted) == 1
