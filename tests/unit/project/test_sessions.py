"""A session ends eight hours after sign-in, however busy it is, and a lead's after 15 idle minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth import get_user
from django.test import Client, RequestFactory
from django.utils import timezone

from keyvault.domain import Role
from keyvault.models import Membership, Team, User
from keyvault.project.sessions import _SEEN, _STARTED, IDLE

pytestmark = pytest.mark.django_db

# A page that needs no permission but lets the middleware see the session.
PAGE = "/livez"


def signed_in(client: Client) -> bool:
    request = RequestFactory().get(PAGE)
    request.session = client.session
    return bool(get_user(request).is_authenticated)


@pytest.fixture
def person(client: Client) -> User:
    user = User.objects.create(username="ada")
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return user


def age(client: Client, seconds: int) -> None:
    session = client.session
    session[_STARTED] -= seconds
    session.save()


def test_a_busy_session_still_ends(client: Client, person: User, settings: Any) -> None:
    client.get(PAGE)
    age(client, settings.SESSION_COOKIE_AGE - 60)
    client.get(PAGE)
    assert signed_in(client)
    age(client, 60)
    client.get(PAGE)
    assert not signed_in(client)


def idle(client: Client, seconds: int) -> None:
    session = client.session
    session[_SEEN] -= seconds
    session.save()


def make(user: User, role: Role) -> None:
    team = Team.objects.create(slug="media", name="Media", created_at=timezone.now())
    Membership.objects.create(team=team, user=user, role=role.value, created_at=timezone.now())


@pytest.mark.parametrize(("role", "stays"), [(Role.VIEWER, True), (Role.OPERATOR, True), (Role.LEAD, False)])
def test_an_idle_session_of_a_lead_ends(client: Client, person: User, role: Role, stays: bool) -> None:
    make(person, role)
    client.get(PAGE)
    idle(client, IDLE - 60)  # a busy test machine may be slow
    client.get(PAGE)
    assert signed_in(client)
    idle(client, IDLE)
    client.get(PAGE)
    assert signed_in(client) is stays


def test_an_administrator_is_as_worth_stealing_as_a_lead(client: Client, person: User) -> None:
    User.objects.filter(pk=person.pk).update(organisation_role="admin")
    client.get(PAGE)
    idle(client, IDLE)
    client.get(PAGE)
    assert not signed_in(client)


def test_a_page_that_refreshes_itself_is_nobody_at_work(client: Client, person: User) -> None:
    make(person, Role.LEAD)
    client.get(PAGE)
    for _ in range(3):
        idle(client, IDLE // 3)
        client.get(PAGE, headers={"HX-Request": "true"})
    assert not signed_in(client)


def test_looking_at_pages_does_not_prolong_it(client: Client, person: User) -> None:
    client.get(PAGE)
    started = client.session[_STARTED]
    age(client, 100)
    client.get(PAGE)
    assert client.session[_STARTED] == started - 100


def test_a_request_without_a_session_is_left_alone(client: Client) -> None:
    response = client.get(PAGE)
    assert response.status_code == 200
    assert response.cookies == {}


def test_cookies_are_strict(settings: Any) -> None:
    assert settings.SESSION_COOKIE_HTTPONLY
    assert settings.CSRF_COOKIE_HTTPONLY
    assert settings.SESSION_COOKIE_SAMESITE == settings.CSRF_COOKIE_SAMESITE == "Lax"
    assert settings.SESSION_COOKIE_AGE == 8 * 3600


@pytest.mark.once
@pytest.mark.parametrize(
    ("url", "name", "secure"),
    [
        ("https://keys.example.org", "__Host-keyturn-session", True),
        ("http://127.0.0.1:1", "keyturn-session", False),
    ],
)
def test_host_cookies_and_second_factors_only_where_it_is_no_try(
    url: str, name: str, secure: bool, tmp_path: Any
) -> None:
    program = (
        "import json; from keyvault.project import settings as s;"
        "print(json.dumps([s.SESSION_COOKIE_NAME, s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE,"
        " s.SECURE_HSTS_SECONDS > 0, s.KEYTURN_REQUIRE_MFA, s.ALLOWED_HOSTS[-1]]))"
    )
    environment = {**os.environ, "KEYTURN_URL": url, "KEYTURN_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    host = url.partition("//")[2].partition(":")[0]
    assert json.loads(done.stdout) == [name, secure, secure, secure, secure, host]
