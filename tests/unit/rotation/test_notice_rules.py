"""The rules of notices as values: texts, pauses, the daily message, signatures."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from keyvault.crypto.secret import Secret
from rotation.notices.kinds import CAN_WAIT, Facts, NoticeKind, kind_of
from rotation.notices.pacing import LONGEST_WAIT, backoff, next_digest
from rotation.notices.signing import signature_headers
from rotation.notices.texts import ADVICE, Text, digest_of, text_of

URL = "https://keys.example.org"
FACTS = Facts(
    at="2026-07-06T09:00:00+00:00",
    service="background-removal",
    environment="prod",
    rotation="3f0c",
    stage="monitor",
    outgoing=6,
    incoming=7,
    code="quota_full",
    reason="the provider allows no further key",
    who="lena",
    since="2026-07-05T23:30:00+00:00",
    verbs=("resume", "abort"),
)


@pytest.mark.parametrize("kind", NoticeKind)
def test_every_kind_says_what_and_what_to_do(kind: NoticeKind) -> None:
    text = text_of(kind, FACTS, base_url=URL)
    assert text.subject
    assert "\n" not in text.subject
    assert text.advice.endswith(".")
    assert text.body.endswith(".")
    assert text.plain == f"{text.body}\n\nWhat to do: {text.advice}\n\n{text.url}"
    for gap in ("None", "{", "..", "  "):
        assert gap not in text.plain


@pytest.mark.parametrize("kind", NoticeKind)
def test_every_kind_has_words_for_facts_that_are_missing(kind: NoticeKind) -> None:
    assert text_of(kind, Facts.from_json({"at": FACTS.at}), base_url=URL).subject


@pytest.mark.parametrize("code", ADVICE)
def test_each_reason_for_attention_has_its_own_advice(code: str) -> None:
    facts = Facts.from_json({**FACTS.to_json(), "code": code})
    assert text_of(NoticeKind.ATTENTION, facts, base_url=URL).advice == ADVICE[code]


def test_a_reason_that_is_not_known_here_is_answered_with_its_verbs() -> None:
    facts = Facts.from_json({**FACTS.to_json(), "code": "something_new"})
    advice = text_of(NoticeKind.ATTENTION, facts, base_url=URL).advice
    assert advice == "Open the rotation and choose one of: resume, abort."


def test_an_escalation_says_since_when_nobody_acts() -> None:
    facts = Facts.from_json({**FACTS.to_json(), "level": "lead"})
    text = text_of(NoticeKind.ATTENTION, facts, base_url=URL)
    assert text.subject == "Escalated: background-removal/prod: a person must act"
    assert text.body.startswith("Nobody has acted on this since 2026-07-05 23:30 UTC.")
    owner = Facts.from_json({**FACTS.to_json(), "level": "owner"})
    assert "Escalated" not in text_of(NoticeKind.ATTENTION, owner, base_url=URL).subject


def test_every_attention_of_the_engine_has_advice() -> None:
    """Read from the rules themselves, so that a new reason is not forgotten here."""
    import re
    from pathlib import Path

    import rotation.decide

    source = Path(rotation.decide.__file__).read_text("utf-8")
    codes = set(re.findall(r'Attention\(\s*"([a-z_]+)"', source))
    assert len(codes) > 10
    assert codes - ADVICE.keys() == set()


def test_facts_come_back_as_they_were_and_strange_members_are_passed_over() -> None:
    assert Facts.from_json({**FACTS.to_json(), "colour": "red"}) == FACTS


def test_a_digest_holds_every_notice_in_order() -> None:
    texts = [Text("one", "First.", "Do it.", "u1"), Text("two", "Second.", "", "")]
    text = digest_of(texts, title="Keyturn: 2 notices")
    assert text.plain == "1. one\nFirst.\n\nWhat to do: Do it.\n\nu1\n\n2. two\nSecond."


@pytest.mark.parametrize(
    ("name", "more", "kind"),
    [
        ("started", {}, NoticeKind.STARTED),
        ("started", {"trigger": "emergency"}, NoticeKind.EMERGENCY),
        ("advanced", {}, None),
        ("advanced", {"reason": "emergency: leaked"}, NoticeKind.EMERGENCY),
        ("abort:asked", {"reason": "emergency: leaked"}, NoticeKind.EMERGENCY),
        ("abort:asked", {"reason": "no emergency"}, None),
        ("approval:wanted", {}, NoticeKind.APPROVAL_WANTED),
        ("attention", {"code": "quota_full"}, NoticeKind.ATTENTION),
        ("attention", {"code": "stragglers"}, NoticeKind.STRAGGLERS),
        ("attention", {"code": "undead_key"}, NoticeKind.UNDEAD_KEY),
        ("escalated", {"code": "late"}, NoticeKind.LATE),
        ("escalated", {"code": "stands"}, NoticeKind.STANDS),
        ("rollback", {}, NoticeKind.ROLLED_BACK),
        ("finished", {"stage": "succeeded"}, NoticeKind.FINISHED),
        ("finished", {"stage": "cancelled"}, NoticeKind.CANCELLED),
        ("finished", {"stage": "rolled_back"}, None),
        ("late", {}, NoticeKind.LATE),
        ("stands", {}, NoticeKind.STANDS),
        ("weight", {}, None),
        ("operation", {}, None),
        ("paused", {}, None),
    ],
)
def test_what_a_line_is_told_as(name: str, more: dict[str, str], kind: NoticeKind | None) -> None:
    given = {"trigger": "person", "code": "", "stage": "deploy", "reason": "", **more}
    assert kind_of(name, **given) == kind


def test_only_harmless_news_waits_for_the_daily_message() -> None:
    assert {kind.value for kind in CAN_WAIT} == {
        "rotation.started",
        "rotation.finished",
        "rotation.cancelled",
    }


def test_pauses_are_drawn_from_a_doubling_span_and_bounded() -> None:
    for tries in (1, 2, 3, 8, 40):
        spans = [backoff(tries).total_seconds() for _ in range(400)]
        ceiling = min(2.0**tries, LONGEST_WAIT)
        assert 0.2 <= min(spans) <= ceiling * 0.2 + 0.2
        assert ceiling * 0.8 <= max(spans) <= ceiling
    assert backoff(1, 60).total_seconds() >= 60
    assert backoff(1, 1e9).total_seconds() == LONGEST_WAIT


@pytest.mark.parametrize(
    ("now", "at", "zone", "due"),
    [
        ("2026-07-06T05:59", "08:00", "Europe/Berlin", "2026-07-06T06:00"),
        ("2026-07-06T06:00", "08:00", "Europe/Berlin", "2026-07-07T06:00"),
        ("2026-07-06T23:30", "08:00", "Asia/Tokyo", "2026-07-07T23:00"),
        ("2026-07-06T22:30", "08:00", "Asia/Tokyo", "2026-07-06T23:00"),
        # Germany leaves out 02:30 on 29 March, and has it twice on 25 October.
        ("2026-03-28T12:00", "02:30", "Europe/Berlin", "2026-03-29T01:30"),
        ("2026-03-29T12:00", "02:30", "Europe/Berlin", "2026-03-30T00:30"),
        ("2026-10-24T12:00", "02:30", "Europe/Berlin", "2026-10-25T00:30"),
        ("2026-10-25T00:30", "02:30", "Europe/Berlin", "2026-10-26T01:30"),
    ],
)
def test_the_daily_message_follows_the_clock_of_its_zone(now: str, at: str, zone: str, due: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert next_digest(moment, at, zone) == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_a_day_never_passes_without_its_message() -> None:
    moment = datetime(2026, 1, 1, 7, 30, tzinfo=UTC)
    for _ in range(400):
        due = next_digest(moment, "02:30", "America/New_York")
        assert timedelta(hours=22) <= due - moment <= timedelta(hours=26)
        moment = due


def test_the_signature_of_the_public_example() -> None:
    """The one that the reference libraries test themselves with."""
    headers = signature_headers(
        [Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        event_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_give_two_signatures_and_the_present_one_comes_first() -> None:
    secrets = [Secret("whsec_" + base64.b64encode(bytes([n]) * 32).decode()) for n in (1, 2)]
    both = signature_headers(secrets, event_id="a", timestamp=1, body=b"")["webhook-signature"].split(" ")
    alone = [
        signature_headers([secret], event_id="a", timestamp=1, body=b"")["webhook-signature"]
        for secret in secrets
    ]
    assert both == alone
    assert both[0] != both[1]
