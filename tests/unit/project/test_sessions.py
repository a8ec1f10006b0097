"""A session ends eight hours after sign-in, however busy it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth import get_user
from django.test import Client, RequestFactory

from keyvault.models import User
from keyvault.project.sessions import _STARTED

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
def test_host_cookies_only_with_https(url: str, name: str, secure: bool, tmp_path: Any) -> None:
    program = (
        "import json; from keyvault.project import settings as s;"
        "print(json.dumps([s.SESSION_COOKIE_NAME, s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE,"
        " s.SECURE_HSTS_SECONDS > 0, s.ALLOWED_HOSTS[-1]]))"
    )
    environment = {**os.environ, "KEYTURN_URL": url, "KEYTURN_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    host = url.partition("//")[2].partition(":")[0]
    assert json.loads(done.stdout) == [name, secure, secure, secure, host]
