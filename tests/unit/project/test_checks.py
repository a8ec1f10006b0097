"""``check --deploy``: a sound installation is clean, and each fault is named with a way out of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import AllowAny
from rest_framework.views import APIView

from keyvault.api.authentication import UserTokenAuthentication
from keyvault.api.permissions import DenyAll
from keyvault.project import checks, guard
from keyvault.project.celery import app
from keyvault.project.checks import process

ROOT = Path(checks.__file__).parents[3]


@pytest.fixture(autouse=True)
def sound(settings: Any, data_dir: Path) -> None:
    """An installation as it is meant to be in production."""
    settings.DEBUG = False
    settings.KEYTURN_URL = "https://keys.example.org"
    settings.ALLOWED_HOSTS = ["keys.example.org"]
    settings.SECURE_HSTS_SECONDS = 31_536_000
    for name in ("SESSION", "CSRF"):
        setattr(settings, f"{name}_COOKIE_NAME", f"__Host-keyturn-{name.lower()}")
        setattr(settings, f"{name}_COOKIE_SECURE", True)
    settings.KEYTURN_REQUIRE_MFA = True
    settings.KEYTURN_CHECKPOINTS_TO = ["file:///mnt/elsewhere"]
    settings.STATIC_ROOT = data_dir / "static"
    # As every process of ours begins.
    guard.leave_no_core()


def told() -> set[str]:
    found = [message for check in checks.STATIC for message in check(None)]
    assert all(message.hint for message in found)
    return {str(message.id).removeprefix("keyvault.") for message in found}


def test_a_sound_installation_is_clean() -> None:
    found = run_checks(include_deployment_checks=True)
    assert [message for message in found if str(message.id).startswith("keyvault.")] == []


def test_they_are_asked_for_by_name_only(settings: Any) -> None:
    settings.DEBUG = True
    call_command("check")
    with pytest.raises(SystemCheckError, match=r"keyvault\.E001"):
        call_command("check", deploy=True)


SETTINGS: list[tuple[str, str, Any]] = [
    ("E001", "DEBUG", True),
    ("E002", "KEYTURN_KEYRING", Path("/nowhere/keyring.json")),
    ("E005", "SESSION_SERIALIZER", "django.contrib.sessions.serializers.PickleSerializer"),
    ("E005", "CACHES", {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}),
    (
        "E005",
        "CACHES",
        {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis:///1"}},
    ),
    ("E006", "CELERY_BROKER_URL", "redis://10.0.0.5:6379/0"),
    ("E006", "CELERY_BROKER_URL", "rediss://10.0.0.5:6379/0"),
    ("E006", "CELERY_BROKER_URL", "redis://user:a-password@broker.example.org:6379/0"),
    ("E006", "CELERY_BROKER_URL", "amqp://user:a-password@10.0.0.5:5672/keyturn"),
    ("E006", "KEYTURN_RATE_LIMIT_URL", "redis://10.0.0.5/0"),
    ("E007", "KEYTURN_URL", "http://keys.example.org"),
    ("E007", "SECURE_HSTS_SECONDS", 3600),
    ("E007", "SESSION_COOKIE_NAME", "keyturn-session"),
    ("E007", "CSRF_COOKIE_SECURE", False),
    ("E007", "SESSION_COOKIE_HTTPONLY", False),
    ("E007", "SESSION_COOKIE_SAMESITE", "None"),
    ("E007", "SECURE_CONTENT_TYPE_NOSNIFF", False),
    ("E007", "X_FRAME_OPTIONS", "SAMEORIGIN"),
    ("E007", "CONTENT_SECURITY_POLICY", {"DIRECTIVES": {"default-src": ["'self'", "'unsafe-inline'"]}}),
    ("E007", "SECURE_PROXY_SSL_HEADER", ("HTTP_X_FORWARDED_PROTO", "https")),
    ("E008", "ALLOWED_HOSTS", ["*"]),
    ("E008", "ALLOWED_HOSTS", ["keys.example.org", ".example.org"]),
    ("W018", "KEYTURN_CHECKPOINTS_TO", []),
    ("W019", "KEYTURN_REQUIRE_MFA", False),
    ("E020", "BILLING_ENDPOINT", "https://user:a-secret-of-ours@billing.example.org/"),
    ("W021", "KEYTURN_EGRESS_ALLOW", frozenset({"127.0.0.1:9101"})),
]


@pytest.mark.parametrize(("number", "name", "value"), SETTINGS, ids=lambda value: str(value)[:40])
def test_a_setting(number: str, name: str, value: Any, settings: Any) -> None:
    setattr(settings, name, value)
    assert told() == {number}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"),
        ("CELERY_BROKER_URL", "rediss://user:a-password@broker.example.org:6379/0"),
        ("CELERY_BROKER_URL", "redis+socket:///run/redis.sock"),
        ("KEYTURN_RATE_LIMIT_URL", "redis://[::1]:6379/0"),
    ],
)
def test_a_connection_that_is_sound(name: str, value: Any, settings: Any) -> None:
    setattr(settings, name, value)
    assert told() == set()


@pytest.mark.parametrize(
    ("host", "sslmode", "expected"),
    [
        ("10.0.0.5", "prefer", {"W006"}),
        ("db.example.org", "", {"W006"}),
        ("db.example.org", "verify-full", set()),
        ("127.0.0.1", "", set()),
        ("/run/postgresql", "", set()),
    ],
)
def test_a_database(
    host: str, sslmode: str, expected: set[str], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"ENGINE": "django.db.backends.postgresql", "HOST": host, "OPTIONS": {"sslmode": sslmode}}
    for name, value in given.items():
        monkeypatch.setitem(settings.DATABASES["default"], name, value)
    assert told() == expected


# The keyring ---------------------------------------------------------------------------------------


def changed(settings: Any, change: Callable[[dict[str, Any]], object]) -> None:
    place = Path(settings.KEYTURN_KEYRING)
    document = json.loads(place.read_text())
    change(document)
    place.write_text(json.dumps(document))


def first_kek(document: dict[str, Any], environment: str) -> str:
    held = document["environments"][environment]
    return str(held["keks"][held["primary"]])


def test_one_key_in_two_environments(settings: Any) -> None:
    def twice(document: dict[str, Any]) -> None:
        dev = document["environments"]["dev"]
        dev["keks"][dev["primary"]] = first_kek(document, "prod")

    changed(settings, twice)
    # It does not open either.
    assert told() == {"E002", "E003"}


def test_a_key_that_is_the_secret_key_too(settings: Any) -> None:
    settings.SECRET_KEY = first_kek(json.loads(Path(settings.KEYTURN_KEYRING).read_text()), "prod")
    assert told() == {"E003"}


def test_a_keyring_that_others_may_read(settings: Any) -> None:
    os.chmod(settings.KEYTURN_KEYRING, 0o640)
    assert told() == {"E002", "E004"}


def test_a_keyring_without_the_keys_of_the_system(settings: Any) -> None:
    changed(settings, lambda document: document["environments"].pop("system"))
    assert told() == {"E002"}


@pytest.mark.parametrize("setting", ["STATIC_ROOT", "MEDIA_ROOT", "STATICFILES_DIRS"])
def test_a_keyring_that_is_published(setting: str, settings: Any, data_dir: Path) -> None:
    setattr(settings, setting, [data_dir] if setting == "STATICFILES_DIRS" else str(data_dir))
    assert told() == {"E004"}


@pytest.fixture
def in_checkout(settings: Any) -> Iterator[None]:
    (ROOT / "var").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="test-checks-", dir=ROOT / "var"))
    settings.KEYTURN_KEYRING = shutil.copy2(settings.KEYTURN_KEYRING, folder / "keyring.json")
    yield
    shutil.rmtree(folder)


def test_a_keyring_in_the_checkout(in_checkout: None) -> None:
    assert told() == {"E004"}


def test_a_keyring_from_the_environment(settings: Any) -> None:
    settings.KEYTURN_KEYRING_JSON = Path(settings.KEYTURN_KEYRING).read_text()
    assert told() == {"W004"}


# The API -------------------------------------------------------------------------------------------


class Careless(APIView):
    """Says nothing at all."""


class Known(APIView):
    authentication_classes = [UserTokenAuthentication]


class Anonymous(APIView):
    permission_classes = [DenyAll]


class Everybody(APIView):
    authentication_classes = [UserTokenAuthentication]
    permission_classes = [AllowAny]


class Cookies(APIView):
    authentication_classes = [SessionAuthentication]
    permission_classes = [DenyAll]


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@pytest.mark.parametrize(
    ("view", "number"),
    [
        (Careless.as_view(), "E011"),
        (Known.as_view(), "E011"),
        (Anonymous.as_view(), "E011"),
        (Everybody.as_view(), "E011"),
        (plain, "E011"),
        (Cookies.as_view(), "E009"),
    ],
)
def test_a_route_that_does_not_say_who(
    view: Any, number: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyvault.project import urls

    monkeypatch.setattr(urls, "urlpatterns", [*urls.urlpatterns, path("v1/careless/", view)])
    settings.ROOT_URLCONF = "keyvault.project.urls"  # forgets the routes of before
    assert told() == {number}


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        ("E009", "DEFAULT_RENDERER_CLASSES", "rest_framework.renderers.BrowsableAPIRenderer"),
        ("E009", "DEFAULT_AUTHENTICATION_CLASSES", "rest_framework.authentication.BasicAuthentication"),
        ("E010", "DEFAULT_PERMISSION_CLASSES", "rest_framework.permissions.IsAuthenticated"),
    ],
)
def test_a_default_of_the_api(number: str, name: str, value: str, settings: Any) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, name: [value]}
    assert told() == {number}


# Programs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        ("E005", "task_serializer", "pickle"),
        ("E005", "accept_content", ["json", "pickle"]),
        ("E005", "result_accept_content", ["application/x-python-serialize"]),
        ("E016", "task_acks_late", False),
        ("E016", "task_reject_on_worker_lost", False),
        ("E016", "worker_prefetch_multiplier", 4),
    ],
)
def test_a_setting_of_the_workers(
    number: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.conf, name, value)
    assert told() == {number}


@pytest.mark.parametrize("installed", ["5.2.18", "5.1.99", "4.2"])
def test_a_library_with_known_weaknesses(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "version", lambda package: installed if package == "django" else "999.0.0")
    assert told() == {"E015"}


def test_what_is_locked_is_above_every_floor() -> None:
    locked = dict(re.findall(r'^name = "([^"]+)"\nversion = "([^"]+)"', (ROOT / "uv.lock").read_text(), re.M))
    assert {
        name
        for name, floor in process.FLOORS.items()
        if process._numbers(locked[name]) < process._numbers(floor)
    } == set()


def test_a_process_that_may_leave_a_core_file() -> None:
    guard._prctl(guard._PR_SET_DUMPABLE, 1)
    try:
        assert told() == {"E017"}
    finally:
        guard.leave_no_core()
    assert told() == set()


# The list ------------------------------------------------------------------------------------------


def test_the_list_names_every_check_and_no_other() -> None:
    source = "".join(
        file.read_text() for file in [*Path(checks.__file__).parent.glob("*.py"), ROOT / "rotation/checks.py"]
    )
    listed = re.findall(r"^\| `([a-z]+\.[EW]\d{3})` \|", (ROOT / "docs/checks.md").read_text(), re.M)
    assert sorted(listed) == sorted(set(re.findall(r'id="([a-z]+\.[EW]\d{3})"', source)))
