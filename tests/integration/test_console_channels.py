"""Channels in the console: list, add, edit, test, replace the secret, remove, and one's own mail address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from keyvault.models import AuditEvent, User
from rotation.notice_rows import Channel
from rotation.notices.targets import open_target
from tests.integration.console import client_of
from tests.integration.telling import Telling, telling

pytestmark = pytest.mark.django_db

FORM = {"level": "owner", "after": "3600", "zone": "UTC", "enabled": "on"}


@pytest.fixture
def t(settings: Any) -> Iterator[Telling]:
    with telling(settings) as built:
        yield built


def add(client: Client, t: Telling, **given: str) -> Any:
    return client.post(
        "/channels/new/",
        {**FORM, "slug": "room", "kind": "chat", "team": "media", "url": t.web.url, **given},
    )


def text(answer: Any) -> str:
    return str(answer.content.decode())


def test_an_empty_list_says_what_to_do_first(t: Telling) -> None:
    assert "Add the first channel" in text(client_of("lena").get("/channels/"))
    assert "Add the first channel" not in text(client_of("vito").get("/channels/"))


def test_a_lead_adds_a_chat_and_sends_a_test(t: Telling) -> None:
    lena = client_of("lena")
    answer = add(lena, t)
    assert (answer.status_code, answer["Location"]) == (302, "/channels/room/")
    assert "not tried yet" in text(lena.get("/channels/"))
    lena.post("/channels/room/test/")
    assert "waiting" in text(lena.get("/channels/room/"))
    from keyvault import clock

    t.now = clock.now()
    t.send()
    assert b"lena sent this to try the channel." in t.web.posted[0].body
    page = text(lena.get("/channels/room/"))
    assert "works" in page
    assert "sent" in page


def test_the_address_never_comes_back(t: Telling) -> None:
    lena = client_of("lena")
    add(lena, t)
    for path in ("/channels/", "/channels/room/"):
        assert "T0Secret7391" not in text(lena.get(path))
    wrong = add(lena, t, slug="other", level="nobody")
    assert wrong.status_code == 422
    assert "T0Secret7391" not in text(wrong)


def test_a_webhook_shows_its_secret_once(t: Telling) -> None:
    lena = client_of("lena")
    made = add(lena, t, slug="hook", kind="webhook")
    assert made.status_code == 201
    assert "no-store" in made["Cache-Control"]
    [secret] = re.findall(r"whsec_[A-Za-z0-9+/=]+", text(made))
    assert secret not in text(lena.get("/channels/hook/"))
    again = lena.post("/channels/hook/rotate-secret/", {"grace": "3600"})
    [fresh] = re.findall(r"whsec_[A-Za-z0-9+/=]+", text(again))
    assert [held.expose() for held in open_target(Channel.objects.get()).signing] == [fresh, secret]


def test_what_is_wrong_stands_at_its_field(t: Telling) -> None:
    answer = add(client_of("lena"), t, url="http://example.org/", digest_at="25:00", zone="Berlin")
    assert answer.status_code == 422
    assert "The address must begin with https://." in text(answer)
    assert "Use a time zone such as Europe/Berlin." in text(answer)
    assert not Channel.objects.exists()


@pytest.mark.parametrize("name", ["mixed", "missing"])
def test_an_address_whose_name_leads_nowhere_is_refused_at_once(t: Telling, name: str) -> None:
    lena = client_of("lena")
    add(lena, t)
    url = f"https://{name}.example.com/hook/canary7391"
    for answer in (add(lena, t, slug="other", url=url), lena.post("/channels/room/", {**FORM, "url": url})):
        assert answer.status_code == 422
        assert list(answer.context["form"].errors) == ["url"]
        assert "canary7391" not in text(answer)
    assert open_target(Channel.objects.get()).url.expose() == t.web.url


def test_a_change_keeps_the_address_that_is_left_empty(t: Telling) -> None:
    lena = client_of("lena")
    add(lena, t)
    answer = lena.post("/channels/room/", {**FORM, "level": "lead", "digest_at": "08:30"})
    assert answer.status_code == 302
    row = Channel.objects.get()
    assert (row.level, row.digest_at, row.after_seconds) == ("lead", "08:30", 3600)
    assert open_target(row).url.expose() == t.web.url


def test_failures_are_shown_with_their_reason(t: Telling) -> None:
    channel = t.channel("dead", "chat", url="http://127.0.0.1:9/")
    t.house.start()
    t.send()
    page = text(client_of("vito").get(f"/channels/{channel.slug}/"))
    assert "The connection was refused" in page or "the connection was refused" in page
    assert "trying again" in page


def test_removing_wants_the_name(t: Telling) -> None:
    lena = client_of("lena")
    add(lena, t)
    assert lena.post("/channels/room/remove/", {"confirm": "rooms"}).status_code == 422
    assert Channel.objects.exists()
    assert lena.post("/channels/room/remove/", {"confirm": "room"}).status_code == 302
    assert not Channel.objects.exists()


def test_only_those_who_may_change_a_channel_can(t: Telling) -> None:
    add(client_of("lena"), t)
    t.channel("all", "mail", own=False)
    for username in ("vito", "otto"):
        client = client_of(username)
        assert client.get("/channels/room/").status_code == 200
        assert "Change it" not in text(client.get("/channels/room/"))
        assert client.get("/channels/new/").status_code == 403
        assert client.post("/channels/room/", FORM).status_code == 403
        for verb in ("test", "rotate-secret"):
            assert client.post(f"/channels/room/{verb}/", {"grace": "0"}).status_code == 403
        assert client.post("/channels/room/remove/", {"confirm": "room"}).status_code == 403
    stranger = client_of("stranger")
    for path in ("/channels/room/", "/channels/room/remove/", "/channels/all/"):
        assert stranger.get(path).status_code == 404
    assert client_of("lena").get("/channels/all/").status_code == 404
    assert client_of("ada").get("/channels/all/").status_code == 200


def test_an_administrator_adds_one_for_the_organisation(t: Telling) -> None:
    assert add(client_of("ada"), t, team="", slug="all").status_code == 302
    assert Channel.objects.get().team is None
    assert add(client_of("lena"), t, team="", slug="mine").status_code == 422


def test_a_person_says_where_their_mail_goes(t: Telling) -> None:
    otto = client_of("otto")
    assert otto.post("/channels/my-mail/", {"email": "otto@example.org"}).status_code == 302
    assert User.objects.get(username="otto").email == "otto@example.org"
    assert "otto@example.org" in text(otto.get("/channels/"))
    assert otto.post("/channels/my-mail/", {"email": "no address"}).status_code == 422
    told = AuditEvent.objects.get(name="user:email:set")
    assert (told.actor, told.details) == ("otto", {"user": "otto"})


@pytest.mark.parametrize("path", ["/channels/", "/channels/new/", "/channels/room/"])
def test_a_signed_out_person_is_sent_to_the_login(t: Telling, path: str) -> None:
    assert Client().get(path)["Location"].startswith("/accounts/login/?next=/")
