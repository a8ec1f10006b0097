"""Signing in and out in the audit: all that works, and of what does not a bounded part that names nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from keyvault.models import AuditEvent
from keyvault.services import sign_ins
from tests.browser.furniture import PASSWORD
from tests.conftest import Tell
from tests.integration.console import build
from tests.integration.signing_in import code_of, new_app, sign_in, wrong_code

pytestmark = pytest.mark.django_db
TYPED = "my-own-password-in-the-wrong-field"
NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def people(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()
    build()


def told(*names: str) -> list[tuple[str, str, dict[str, Any]]]:
    events = AuditEvent.objects.filter(name__in=[f"user:{name}" for name in names]).order_by("sequence")
    return [(event.name.removeprefix("user:"), event.actor, event.details) for event in events]


def guess(name: str, times: int = 1, address: str = "198.51.100.7") -> None:
    for _ in range(times):
        Client().post("/accounts/login/", {"login": name, "password": "a guess"}, REMOTE_ADDR=address)


def test_who_signs_in_is_told_with_the_way_and_the_browser() -> None:
    client = sign_in("lena")
    seed = new_app(client)
    client.post("/accounts/logout/")
    half = client.post("/accounts/login/", {"login": "lena", "password": PASSWORD})
    assert half.status_code == 302
    assert len(told("signed-in")) == 1  # half a sign-in is none
    client.post("/accounts/2fa/authenticate/", {"code": code_of(seed)})
    assert told("signed-in", "signed-out") == [
        ("signed-in", "lena", {"user": "lena", "how": "password", "address": "127.0.0.1", "known": False}),
        ("signed-out", "lena", {"user": "lena", "why": "by hand"}),
        (
            "signed-in",
            "lena",
            {
                "user": "lena",
                "how": "password and authenticator app",
                "address": "127.0.0.1",
                "known": True,
            },
        ),
    ]


def test_a_password_that_the_person_changes_is_told() -> None:
    client = sign_in("lena")
    new = {
        "oldpassword": PASSWORD,
        "password1": "another long password",
        "password2": "another long password",
    }
    assert client.post("/accounts/password/change/", new).status_code == 302
    assert told("password:set") == [("password:set", "lena", {"user": "lena"})]


def test_wrong_attempts_are_counted_and_told_once() -> None:
    guess("lena", 7)
    expected = {"user": "lena", "what": "password", "address": "198.51.100.7", "count": 1}
    assert told("sign-in:failed", "sign-in:limited") == [
        ("sign-in:failed", "keyturn", expected),
        ("sign-in:limited", "keyturn", expected),
    ]
    # The next one, ten minutes later, says how many there were in between.
    later = datetime.now(UTC) + sign_ins.EVERY + timedelta(seconds=1)
    assert sign_ins.failed("lena", what="password", address="", limited=False, now=later)
    assert told("sign-in:failed")[-1][2]["count"] == 5


def test_what_was_typed_as_a_name_is_nowhere() -> None:
    guess(TYPED)
    guess(TYPED + "2")
    assert told("sign-in:failed") == [
        (
            "sign-in:failed",
            "keyturn",
            {"user": sign_ins.NOBODY, "what": "password", "address": "198.51.100.7", "count": 1},
        )
    ]
    assert TYPED not in str(list(AuditEvent.objects.values_list("details", "subject", "reason", "actor")))


def test_a_wrong_code_is_told_too() -> None:
    client = sign_in("lena")
    seed = new_app(client)
    client.post("/accounts/logout/")
    client.post("/accounts/login/", {"login": "lena", "password": PASSWORD})
    client.post("/accounts/2fa/authenticate/", {"code": wrong_code(seed)})
    assert [event[2]["what"] for event in told("sign-in:failed")] == ["code"]


def test_a_passkey_that_does_not_match_is_told_too() -> None:
    made_up = {"credential": '{"id": "made-up", "response": {}}'}
    Client().post("/accounts/2fa/passkeys/login/", made_up)
    client = sign_in("lena")
    new_app(client)
    client.post("/accounts/logout/")
    client.post("/accounts/login/", {"login": "lena", "password": PASSWORD})
    client.post("/accounts/2fa/authenticate/", made_up)
    assert [(event[2]["user"], event[2]["what"]) for event in told("sign-in:failed")] == [
        (sign_ins.NOBODY, "passkey"),
        ("lena", "passkey"),
    ]


@pytest.mark.once
def test_a_flood_of_guesses_does_not_fill_the_audit(monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    monkeypatch.setattr(sign_ins, "MOST", 3)
    names = ["lena", "otto", "vito", "ada", "stranger", "nobody", "no one"]
    attempts = recorded = 0
    for minute in range(30):
        for name in names:
            attempts += 1
            now = NOW + timedelta(minutes=minute)
            recorded += sign_ins.failed(name, what="password", address="", limited=False, now=now)
    assert recorded == AuditEvent.objects.filter(name=sign_ins.FAILED).count() == 3
    tell("wrong attempts", {"made": attempts, "recorded": recorded})


def test_a_session_that_is_too_old_is_told(settings: Any) -> None:
    client = sign_in("lena")
    client.get("/matrix/")
    session = client.session
    session["keyturn_started"] = session["keyturn_started"] - settings.SESSION_COOKIE_AGE
    session.save()
    client.get("/matrix/")
    client.get("/matrix/")
    assert [event[2]["why"] for event in told("signed-out")] == ["the session was too old"]


@pytest.mark.once
def test_a_provider_that_is_not_believed_is_told_once() -> None:
    later = NOW + sign_ins.EVERY + timedelta(seconds=1)
    outcomes = [
        sign_ins.provider_refused(code, now=now)
        for code, now in (("a", NOW), ("a", NOW), ("b", NOW), ("a", later))
    ]
    assert outcomes == [True, False, True, True]
    assert set(AuditEvent.objects.filter(name="sign-on:refused").values_list("actor", flat=True)) == {
        "keyturn"
    }


@pytest.mark.once
def test_it_is_written_when_the_answer_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the time of the answer would tell whether somebody has this name."""
    from django.http import HttpResponse

    at_close: list[int] = []
    close = HttpResponse.close

    def closing(self: HttpResponse) -> None:
        at_close.append(AuditEvent.objects.filter(name=sign_ins.FAILED).count())
        close(self)

    monkeypatch.setattr(HttpResponse, "close", closing)
    guess("lena")
    assert at_close[-1] == 0
    assert len(told("sign-in:failed")) == 1
