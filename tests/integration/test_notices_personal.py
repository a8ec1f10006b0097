"""What people hear of their own accounts, and who hears that a token ends soon."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache

from keyvault.actors import SYSTEM, actor_for
from keyvault.domain import OrganisationRole
from keyvault.models import Consumer, Environment, User
from keyvault.services import consumers, people, second_factors, setup_links, sign_ins
from rotation.notice_rows import Channel, Notice
from rotation.services import channels
from rotation.services.expiring import EVERY, tell_expiring_tokens
from tests.browser.furniture import PASSWORD
from tests.integration.signing_in import new_app, sign_in
from tests.integration.telling import NOW, Telling, give_mail, telling

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


@pytest.fixture
def t(settings: Any) -> Iterator[Telling]:
    cache.clear()
    with telling(settings) as made:
        give_mail(lena="lena@example.org", ada="ada@example.org")
        yield made


def user(name: str) -> User:
    return User.objects.get(username=name)


def told(address: str = "lena@example.org") -> list[str]:
    rows = Notice.objects.filter(recipient=address, channel__personal=True).order_by("sequence")
    return [row.facts["code"].removeprefix("user:") for row in rows]


def test_a_person_hears_of_every_change_and_of_a_new_browser(t: Telling) -> None:
    client = sign_in("lena")
    client.post("/accounts/logout/")
    client.post("/accounts/login/", {"login": "lena", "password": PASSWORD})  # known by now
    new_app(client)
    client.post("/accounts/logout/")
    client.post("/accounts/login/", {"login": "lena", "password": PASSWORD})  # only half
    second_factors.remove_all(actor_for(user("ada")), user("lena"), reason="lost", now=t.now)
    client = sign_in("lena")
    new = {
        "oldpassword": PASSWORD,
        "password1": "another long password",
        "password2": "another long password",
    }
    assert client.post("/accounts/password/change/", new).status_code == 302
    assert told() == [
        "signed-in",
        "second-factor:added",
        "second-factor:added",
        "second-factor:removed",
        "second-factor:removed",
        "second-factor:reset",
        "signed-in",
        "password:set",
    ]
    assert told("ada@example.org") == []
    t.now = Notice.objects.latest("created_at").created_at
    t.send()
    assert {address for to, _ in t.mail.taken for address in to} == {"lena@example.org"}
    text = "\n".join(message.get_content() for _, message in t.mail.taken)
    for words in ("new browser", "authenticator app", "recovery codes", "password was changed", "/profile/"):
        assert words in text, words


def test_a_link_a_token_and_another_address_are_told(t: Telling) -> None:
    lena = user("lena")
    _, secret = setup_links.new_password(actor_for(user("ada")), lena, now=t.now)
    setup_links.use(secret.expose(), "another long password", now=t.now)
    people.create_user_token(lena, expires_at=t.now + DAY, now=t.now, actor=actor_for(lena))
    people.set_email(lena, "thief@example.org", now=t.now)
    assert told() == ["link:used", "token:created", "email:set"]
    assert told("thief@example.org") == []


def test_a_flood_of_attempts_is_one_mail_in_an_hour(t: Telling) -> None:
    for minute in range(0, 60, 5):
        later = NOW + timedelta(minutes=minute)
        sign_ins.failed("lena", what="password", address="192.0.2.7", limited=True, now=later)
        sign_ins.failed("nobody", what="password", address="192.0.2.7", limited=True, now=later)
    assert told() == ["sign-in:limited"]
    assert Notice.objects.count() == 1


def test_nobody_else_hears_and_without_an_address_nobody(t: Telling, settings: Any) -> None:
    heard = t.channel("all", own=False, kind="webhook")
    people.note_password(user("vito"), now=t.now)  # has no address
    settings.EMAIL_HOST = ""
    people.note_password(user("lena"), now=t.now)
    assert not Notice.objects.exists()
    settings.EMAIL_HOST = "127.0.0.1"
    people.note_password(user("lena"), now=t.now)
    mine = Channel.objects.get(personal=True)
    assert (mine.slug, t.kinds(mine), t.kinds(heard)) == ("people", ["account.changed"], [])
    assert mine not in Channel.objects.hearing(t.house.team.id)
    channels.change_channel(SYSTEM, mine, url=None, fields={"enabled": False}, now=t.now)
    people.note_password(user("lena"), now=t.now)
    assert mine.notices.count() == 1


def test_the_channel_finds_a_name_that_is_free(t: Telling) -> None:
    t.channel("people", own=False)
    people.note_password(user("lena"), now=t.now)
    assert Channel.objects.get(personal=True).slug == "people-1"


# Tokens that end soon -----------------------------------------------------------------------------


def consumer(t: Telling) -> Consumer:
    return consumers.create_consumer(SYSTEM, slug="billing", team=t.house.team, now=NOW)


def test_a_consumers_token_is_told_to_its_owners_at_14_and_at_3_days(t: Telling) -> None:
    owners, leads = t.channel("owners"), t.channel("leads", level="lead", after=timedelta(hours=1))
    prod = Environment.objects.get(slug="prod")
    for days in (30, 10, 2):  # the last was never meant to live for three days
        consumers.create_token(SYSTEM, consumer(t) if days == 30 else Consumer.objects.get(slug="billing"),
                               prod, expires_at=NOW + days * DAY, now=NOW)  # fmt: skip
    seen = []
    for hour in range(0, 30 * 24, 12):
        tell_expiring_tokens(NOW + timedelta(hours=hour))
        tell_expiring_tokens(NOW + timedelta(hours=hour) + EVERY / 2)
        seen.append(owners.notices.count())
    assert seen[-1] == 3  # 14 and 3 days of the first, 3 days of the second
    assert (seen[13], seen[14], seen[31], seen[32]) == (0, 1, 1, 2)
    assert t.kinds(leads) == []
    first = owners.notices.order_by("created_at")[0]
    assert first.facts["consumer"] == "billing"


def test_a_token_that_has_a_successor_or_is_revoked_is_not_told(t: Telling) -> None:
    owners, prod = t.channel("owners"), Environment.objects.get(slug="prod")
    billing = consumer(t)
    first, _ = consumers.create_token(SYSTEM, billing, prod, expires_at=NOW + 20 * DAY, now=NOW)
    dead, _ = consumers.create_token(SYSTEM, billing, prod, expires_at=NOW + 20 * DAY, now=NOW)
    consumers.revoke_token(SYSTEM, dead, now=NOW)
    second, _ = consumers.rotate_token(SYSTEM, first, grace=15 * DAY, now=NOW)
    tell_expiring_tokens(NOW + 10 * DAY)
    assert list(owners.notices.values_list("dedup", flat=True)) == [f"token-expiring:{second.id}:14"]


def test_a_persons_token_is_told_to_that_person_alone(t: Telling) -> None:
    everybody = t.channel("all", own=False)
    lena = user("lena")
    people.create_user_token(lena, expires_at=NOW + 20 * DAY, now=NOW)
    Notice.objects.all().delete()
    for days in (5, 7, 10, 18, 19):
        tell_expiring_tokens(NOW + days * DAY)
    rows = Notice.objects.filter(kind="token.expiring")
    assert [row.recipient for row in rows] == ["lena@example.org"] * 2
    assert t.kinds(everybody) == []
    assert lena.organisation_role == OrganisationRole.NONE
