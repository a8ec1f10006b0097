"""Second factors: sealed seeds, codes that work once, and what a new factor does to sessions."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from allauth.account.internal.flows import login
from allauth.mfa.models import Authenticator
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import get_resolver

from keyvault.actors import SYSTEM, actor_for
from keyvault.crypto.envelope import IntegrityError
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent, SecondFactorSeed, User
from keyvault.services import sealed_rows, second_factors
from rotation.models import KeySchedule
from tests.browser.furniture import PASSWORD, plain_key
from tests.integration.console import House, build, client_of
from tests.integration.signing_in import code_of, confirm, is_in, new_app, sign_in, wrong_code

pytestmark = pytest.mark.django_db
NOW = datetime.now(UTC)
REVEAL = "/keys/background-removal/prod/reveal/"


@pytest.fixture(autouse=True)
def house() -> House:
    cache.clear()
    return build()


def test_only_the_routes_that_keyturn_uses_are_there() -> None:
    client = client_of("lena")
    for path in ("signup/", "email/", "password/reset/", "password/set/", "confirm-email/", "3rdparty/"):
        assert client.get(f"/accounts/{path}").status_code == 404, path
    names = {str(name) for name in get_resolver().reverse_dict if isinstance(name, str)}
    assert not {"account_signup", "account_email", "account_reset_password", "mfa_trust"} & names


def test_an_app_is_set_up_from_a_picture_in_the_page_itself_and_its_seed_is_nowhere_in_the_clear() -> None:
    client = sign_in("lena")
    assert client.get("/accounts/2fa/app/")["Location"].startswith("/accounts/reauthenticate/?next=")
    confirm(client)
    page = client.get("/accounts/2fa/app/").content.decode()
    assert "<svg" in page
    assert "data:" not in page
    pending = str([row.get_decoded() for row in Session.objects.all()])
    seed = new_app(client)
    assert seed not in pending
    row = SecondFactorSeed.objects.order_by("created_at").first()
    assert row is not None
    assert second_factors.open_seed(row.user_id, str(row.id)).expose() == seed
    stored = str(list(Authenticator.objects.values_list("data", flat=True))) + everything(connection)
    for spelling in (seed, base64.b64encode(seed.encode()).decode(), seed.encode().hex()):
        assert spelling not in stored


def everything(database: Any) -> str:
    """Every row of every table, as a dump shows them."""
    found = []
    with database.cursor() as cursor:
        for table in database.introspection.table_names(cursor):
            cursor.execute(f'select * from "{table}"')
            found += [
                bytes(v).hex() if isinstance(v, memoryview | bytes) else str(v) for r in cursor for v in r
            ]
    return "\n".join(found)


def test_the_code_is_asked_for_after_the_password_and_counts_once() -> None:
    seed = new_app(sign_in("lena"))
    client, other = sign_in("lena"), sign_in("lena")
    assert not is_in(client)
    code = code_of(seed)
    assert client.post("/accounts/2fa/authenticate/", {"code": wrong_code(seed)}).status_code == 200
    assert client.post("/accounts/2fa/authenticate/", {"code": code})["Location"] == "/"
    assert is_in(client)
    # allauth forgets a used code after 30 seconds, while it is accepted for longer.
    cache.delete(f"allauth.mfa.totp.used?user={User.objects.get(username='lena').pk}&code={code}")
    for spelling in (code, f"{code[:3]} {code[3:]}", f"{code[:3]}-{code[3:]}", f" {code} "):
        assert other.post("/accounts/2fa/authenticate/", {"code": spelling}).status_code == 200
    assert not is_in(other)


def test_a_recovery_code_lets_in_once_and_the_codes_are_shown_once() -> None:
    client = sign_in("lena")
    new_app(client)
    shown = client.get("/accounts/2fa/codes/").context["unused_codes"]
    assert len(shown) == 10
    assert shown[0] not in client.get("/accounts/2fa/codes/").content.decode()
    first, second = sign_in("lena"), sign_in("lena")
    assert first.post("/accounts/2fa/authenticate/", {"code": shown[0]}).status_code == 302
    assert second.post("/accounts/2fa/authenticate/", {"code": shown[0]}).status_code == 200


def test_a_code_confirms_that_it_is_you() -> None:
    seed = new_app(sign_in("lena"))
    client = sign_in("lena")
    client.post("/accounts/2fa/authenticate/", {"code": code_of(seed)})
    cache.clear()
    asked = client.get(REVEAL)["Location"]
    assert asked.startswith("/accounts/2fa/reauthenticate/?next=")
    page = client.get(asked).content.decode()
    assert "your password" in page
    answer = client.post("/accounts/2fa/reauthenticate/", {"code": code_of(seed), "next": REVEAL})
    assert answer["Location"] == REVEAL
    assert client.get(REVEAL).status_code == 200


def test_what_was_sent_is_not_kept_while_asking_who_it_is() -> None:
    client = client_of("lena")
    answer = client.post(REVEAL, {"reason": "a-word-that-must-not-stay"})
    assert answer["Location"].startswith("/accounts/reauthenticate/?next=")
    assert "a-word-that-must-not-stay" not in str(client.session.items())
    confirm(client)
    assert not AuditEvent.objects.filter(name="key:revealed").exists()


def test_every_other_session_ends_when_a_factor_comes_and_when_it_goes() -> None:
    here, there = sign_in("lena"), sign_in("lena")
    assert is_in(there)
    new_app(here)
    assert is_in(here)
    assert not is_in(there)
    there = client_of("lena")
    assert here.post("/accounts/2fa/app/remove/").status_code == 302
    assert is_in(here)
    assert not is_in(there)
    assert not SecondFactorSeed.objects.exists()
    told = AuditEvent.objects.filter(name__startswith="user:second-factor").order_by("sequence")
    assert [(e.name.rpartition(":")[2], e.actor, e.details["kind"]) for e in told] == [
        ("added", "lena", "authenticator app"),
        ("added", "lena", "recovery codes"),
        ("removed", "lena", "authenticator app"),
        ("removed", "lena", "recovery codes"),
    ]


def test_a_seed_of_another_person_and_one_that_was_changed_do_not_open() -> None:
    new_app(sign_in("lena"))
    lena, vito = User.objects.get(username="lena"), User.objects.get(username="vito")
    app = Authenticator.objects.get(user=lena, type="totp").data["secret"]
    for owner, reference in ((vito.pk, app), (lena.pk, "JBSWY3DPEHPK3PXP")):
        with pytest.raises(IntegrityError):
            second_factors.open_seed(owner, reference)
    SecondFactorSeed.objects.filter(id=app).update(user=vito)
    other = SecondFactorSeed.objects.exclude(id=app).get()
    row = SecondFactorSeed.objects.get(id=app)
    row.ciphertext, row.wrapped_dek = other.ciphertext, other.wrapped_dek
    row.save()
    with pytest.raises(IntegrityError):
        second_factors.open_seed(vito.pk, app)


def test_seeds_move_to_a_new_kek(house: House) -> None:
    new_app(sign_in("lena"))
    before = set(SecondFactorSeed.objects.values_list("kek_kid", "wrapped_dek"))
    tables = {table.name: table for table in sealed_rows.tables("system")}
    row = SecondFactorSeed.objects.order_by("created_at")[0]
    assert row in tables["seed"].rows
    assert tables["seed"].move(row.pk, second_factors_keks()) == 1
    assert set(SecondFactorSeed.objects.values_list("kek_kid", "wrapped_dek")) != before
    assert second_factors.open_seed(row.user_id, str(row.id)).expose()


def second_factors_keks() -> Any:
    from keyvault.keystore import keys

    return keys().keks


def test_an_administrator_takes_a_lost_factor_away_and_nobody_else_does() -> None:
    client = sign_in("lena")
    new_app(client)
    lena = User.objects.get(username="lena")
    for who in ("vito", "stranger"):
        with pytest.raises(KeyturnError, check=lambda error: error.code == "permission_denied"):
            second_factors.remove_all(actor_for(User.objects.get(username=who)), lena, reason="lost", now=NOW)
    ada = actor_for(User.objects.get(username="ada"))
    second_factors.remove_all(ada, lena, reason="lost phone", now=NOW)
    assert not second_factors.has_second_factor(lena)
    assert not is_in(client)
    with pytest.raises(KeyturnError):
        second_factors.remove_all(ada, lena, reason="again", now=NOW)
    with pytest.raises(KeyturnError):
        second_factors.remove_all(SYSTEM, lena, reason=" ", now=NOW)


def test_somebody_with_no_way_to_confirm_adds_a_factor_right_after_signing_in_only() -> None:
    User.objects.filter(username="lena").update(password="!")
    stolen = Client()
    stolen.force_login(User.objects.get(username="lena"))
    assert stolen.get(REVEAL)["Location"] == "/accounts/2fa/"
    assert stolen.get("/accounts/2fa/app/").status_code == 403
    session = stolen.session
    session[login.AUTHENTICATION_METHODS_SESSION_KEY] = [{"method": "socialaccount", "at": time.time()}]
    session[login._AUTHENTICATION_METHODS_USER_SESSION_KEY] = session["_auth_user_id"]
    session.save()
    assert stolen.get("/accounts/2fa/app/").status_code == 200


PLACES = ("/", "/matrix/", "/keys/background-removal/prod/", "/audit/", "/admin/")


@pytest.mark.parametrize(
    ("who", "led_there"), [("lena", True), ("ada", True), ("vito", False), ("otto", False)]
)
def test_a_lead_without_a_second_factor_is_led_to_where_one_is_added(
    settings: Any, who: str, led_there: bool
) -> None:
    settings.KEYTURN_REQUIRE_MFA = True
    client = client_of(who)
    for path in PLACES:
        answer = client.get(path)
        assert (answer.headers.get("Location") == "/accounts/2fa/") is led_there, path
    page = client.get("/accounts/2fa/").content.decode()
    assert ("You need a second factor first." in page) is led_there
    fragment = client.get("/", headers={"HX-Request": "true"})
    assert (fragment.headers.get("HX-Redirect") == "/accounts/2fa/") is led_there
    assert (
        client.post("/teams/new/", {"slug": "x"}).headers.get("Location") == "/accounts/2fa/"
    ) is led_there
    assert client.get("/livez").status_code == 200


def test_a_second_factor_opens_everything_and_its_removal_closes_it(settings: Any) -> None:
    settings.KEYTURN_REQUIRE_MFA = True
    client = client_of("lena")
    new_app(client)
    assert client.get("/").status_code == 200
    client.post("/accounts/2fa/app/remove/")
    assert client.get("/")["Location"] == "/accounts/2fa/"


@pytest.mark.once
def test_recovery_codes_alone_are_no_second_factor(settings: Any) -> None:
    settings.KEYTURN_REQUIRE_MFA = True
    lena = User.objects.get(username="lena")
    Authenticator.objects.create(user=lena, type="recovery_codes", data={"seed": "x", "used_mask": 0})
    assert client_of("lena").get("/")["Location"] == "/accounts/2fa/"


def test_another_policy_for_a_protected_key_waits_until_it_is_clear_who_asks(house: House) -> None:
    plain_key(house.service, "dev", "made-up-dev-Xq81mPq04", now=house.now)
    client, path = client_of("lena"), "/keys/background-removal/{}/policy/"
    client.post(path.format("dev"), {"policy": "fast"})
    asked = client.post(path.format("prod"), {"policy": "fast"})["Location"]
    assert asked == "/accounts/reauthenticate/?next=%2Fkeys%2Fbackground-removal%2Fprod%2Fpolicy%2F"
    follows = KeySchedule.objects.values_list("key__environment__slug", "policy__slug")
    assert ("dev", "fast") in follows
    assert ("prod", "fast") not in follows
    client.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": path.format("prod")})
    assert ("prod", "fast") in follows.all()


def test_too_many_attempts_are_told_on_a_page_of_ours() -> None:
    client = client_of("lena")
    answers = [client.post("/accounts/reauthenticate/", {"password": ""}) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert "Too many attempts. Wait a few minutes" in answers[-1].content.decode()
