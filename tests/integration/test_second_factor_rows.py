"""Whoever writes to the database cannot add a passkey for somebody else, nor change or move one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from django.db import connection
from django.test import Client
from structlog.testing import capture_logs

from keyvault.actors import actor_for
from keyvault.crypto.envelope import IntegrityError
from keyvault.models import User
from keyvault.services import second_factors
from tests.browser.furniture import PASSWORD
from tests.integration.console import build, client_of
from tests.integration.signing_in import code_of, is_in, new_app, sign_in

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
PASSKEY = {
    "name": "Passkey 1",
    "credential": {"id": "made-up", "extensions": {"a": 3.0e9, "b": [1.5, -0.0, 1e22]}},
}


@pytest.fixture(autouse=True)
def people() -> None:
    cache.clear()
    build()


def user(name: str) -> User:
    return User.objects.get(username=name)


def passkey(name: str) -> Authenticator:
    return Authenticator.objects.create(user=user(name), type="webauthn", data=dict(PASSKEY))


def rewrite(row: Authenticator, **columns: Any) -> None:
    """As somebody does who has the database and not the keyring."""
    Authenticator.objects.filter(pk=row.pk).update(**columns)


def read(pk: int) -> Authenticator:
    return Authenticator.objects.get(pk=pk)


def test_what_we_write_is_read_again_whatever_numbers_it_holds() -> None:
    row = passkey("lena")
    again = read(row.pk)
    assert {name: value for name, value in again.data.items() if name != "mac"} == PASSKEY
    # As allauth does when a key is named, used, or its codes were seen.
    again.data["name"] = "another"
    again.save()
    again.record_usage()
    again.data["viewed_at"] = 1763775600.123456
    again.save(update_fields=["data"])
    assert read(row.pk).data["name"] == "another"


@pytest.mark.parametrize(
    "change",
    [
        {"data": {**PASSKEY, "credential": {"id": "of a thief"}}},
        {"data": PASSKEY},
        {"data": {**PASSKEY, "mac": ""}},
        {"data": {**PASSKEY, "mac": None}},
        {"data": {**PASSKEY, "mac": "00" * 32}},
        {"type": "totp"},
    ],
)
def test_a_row_that_was_changed_is_refused_and_told(change: dict[str, Any]) -> None:
    row = passkey("lena")
    rewrite(row, **change)
    with capture_logs() as told, pytest.raises(IntegrityError):
        read(row.pk)
    assert [(line["event"], line["log_level"], line["user"]) for line in told] == [
        ("second_factor_changed", "error", row.user_id)
    ]


def test_a_key_of_a_thief_does_not_become_one_of_another() -> None:
    mine = passkey("vito")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mfa_authenticator SET user_id = %s WHERE id = %s", [user("ada").pk, mine.pk])
    with pytest.raises(IntegrityError):
        read(mine.pk)


def test_a_passkey_that_was_slipped_in_opens_nothing_and_an_administrator_removes_it() -> None:
    client = sign_in("lena")
    seed = new_app(client)
    client.post("/accounts/logout/")
    stolen = passkey("vito")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE mfa_authenticator SET user_id = %s WHERE id = %s", [user("lena").pk, stolen.pk]
        )
    browser = Client(raise_request_exception=False)
    browser.post("/accounts/login/", {"login": "lena", "password": PASSWORD})
    assert browser.get("/accounts/2fa/authenticate/").status_code == 503  # it would ask for the passkey
    # What lena has herself still works, as far as the page that lists her factors.
    assert browser.post("/accounts/2fa/authenticate/", {"code": code_of(seed)}).status_code == 302
    assert browser.get("/profile/").status_code == 503
    assert client_of("ada").get(f"/people/{user('lena').pk}/").status_code == 200
    second_factors.remove_all(actor_for(user("ada")), user("lena"), reason="slipped in", now=NOW)
    assert not Authenticator.objects.filter(user=user("lena")).exists()
    assert is_in(sign_in("lena"))


def test_codes_work_on_as_they_are_used() -> None:
    client = sign_in("lena")
    new_app(client)
    row = Authenticator.objects.get(user=user("lena"), type="recovery_codes")
    from allauth.core.context import request_context
    from django.test import RequestFactory

    request = RequestFactory().get("/")
    request.user = user("lena")
    with request_context(request):
        codes = row.wrap().generate_codes()
        assert row.wrap().validate_code(codes[0])
        assert not read(row.pk).wrap().validate_code(codes[0])
        assert read(row.pk).wrap().validate_code(codes[1])
