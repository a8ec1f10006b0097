"""Wrong passwords and codes are counted so that nobody can shut somebody else out, and nobody can guess."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.core.cache import cache
from django.test import Client, RequestFactory

from keyvault.models import User
from keyvault.project import attempts
from tests.browser.furniture import PASSWORD
from tests.conftest import Tell
from tests.integration.console import build
from tests.integration.signing_in import code_of, new_app, wrong_code

pytestmark = [pytest.mark.django_db, pytest.mark.once]
ADDRESSES = 1000
HOME = "198.51.100.7"
WRONG = "a wrong password of somebody"


@pytest.fixture(autouse=True)
def people(settings: Any) -> None:
    # In memory, so that a thousand addresses are counted quickly.
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()
    build()


def try_to_sign_in(client: Client, password: str, *, name: str = "lena", address: str = HOME) -> str:
    """What becomes of it: ``in``, ``wrong`` or ``wait``."""
    answer = client.post("/accounts/login/", {"login": name, "password": password}, REMOTE_ADDR=address)
    if answer.status_code == 302:
        return "in"
    return "wait" if "Too many failed login attempts" in answer.content.decode() else "wrong"


def known_browser(name: str = "lena") -> Client:
    client = Client()
    assert try_to_sign_in(client, PASSWORD, name=name) == "in"
    client.post("/accounts/logout/")
    return client


def addresses(count: int) -> Iterator[str]:
    for number in range(count):
        yield f"203.{number // 250}.{number % 250}.9"


def flood(name: str, count: int) -> int:
    """Wrong attempts for this person, each from a network of its own; returns how many were let through."""
    ask = RequestFactory()
    requests = (ask.post("/accounts/login/", REMOTE_ADDR=address) for address in addresses(count))
    return sum(attempts.consume(request, name, "password") is not None for request in requests)


def test_a_thousand_addresses_do_not_shut_a_person_out_of_a_known_browser(tell: Tell) -> None:
    mine = known_browser()
    looked_at = flood("lena", ADDRESSES)
    tell("wrong sign-ins for one person", {"addresses": ADDRESSES, "passwords looked at": looked_at})
    assert looked_at == 30
    assert try_to_sign_in(Client(), PASSWORD, address="192.0.2.1") == "wait"
    assert try_to_sign_in(mine, PASSWORD, address="192.0.2.1") == "in"


def test_others_are_not_touched_by_it() -> None:
    flood("lena", 60)
    assert try_to_sign_in(Client(), PASSWORD, name="vito") == "in"


def test_a_known_browser_guesses_no_more_than_any_other() -> None:
    mine = known_browser()
    assert [try_to_sign_in(mine, WRONG) for _ in range(7)] == ["wrong"] * 5 + ["wait"] * 2
    # Its own count is its own: another browser at home still has all of its attempts.
    assert try_to_sign_in(Client(), PASSWORD) == "in"


def test_a_browser_is_known_for_those_who_signed_in_with_it_only() -> None:
    vitos = known_browser("vito")
    flood("lena", 60)
    assert try_to_sign_in(vitos, PASSWORD, name="lena") == "wait"


@pytest.mark.parametrize("change", [lambda text: text[:-1] + "A", lambda _: "", lambda _: "a:b:c"])
def test_a_forged_cookie_makes_no_known_browser(change: Any, settings: Any) -> None:
    mine = known_browser()
    held = mine.cookies[settings.KEYTURN_DEVICE_COOKIE]
    flood("lena", 60)
    mine.cookies[settings.KEYTURN_DEVICE_COOKIE] = change(held.value)
    assert try_to_sign_in(mine, PASSWORD, address="192.0.2.1") == "wait"


def test_the_cookie_is_for_the_server_only_and_names_nobody(settings: Any) -> None:
    cookie = known_browser().cookies[settings.KEYTURN_DEVICE_COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert "lena" not in cookie.value
    assert int(cookie["max-age"]) == 400 * 24 * 3600


def test_it_comes_with_the_whole_sign_in_and_not_with_half_of_it(settings: Any) -> None:
    app = known_browser()
    try_to_sign_in(app, PASSWORD)
    seed = new_app(app)
    half = Client()
    assert try_to_sign_in(half, PASSWORD) == "in"  # as far as the code
    assert settings.KEYTURN_DEVICE_COOKIE not in half.cookies
    assert half.post("/accounts/2fa/authenticate/", {"code": code_of(seed)}).status_code == 302
    assert settings.KEYTURN_DEVICE_COOKIE in half.cookies


def test_a_stolen_password_does_not_stop_the_codes_of_its_owner() -> None:
    mine = known_browser()
    try_to_sign_in(mine, PASSWORD)
    seed = new_app(mine)
    mine.post("/accounts/logout/")
    thief = Client()
    try_to_sign_in(thief, PASSWORD, address="203.0.113.5")
    guesses = [
        thief.post(
            "/accounts/2fa/authenticate/", {"code": wrong_code(seed)}, REMOTE_ADDR="203.0.113.5"
        ).content
        for _ in range(7)
    ]
    assert ["Too many" in guess.decode() for guess in guesses] == [False] * 5 + [True] * 2
    assert try_to_sign_in(mine, PASSWORD) == "in"
    assert mine.post("/accounts/2fa/authenticate/", {"code": code_of(seed)}).headers["Location"] == "/"


@pytest.mark.parametrize("spelling", ["LENA", " lena ", "Lena", "\uff4cena"])
def test_another_spelling_of_a_name_has_no_count_of_its_own(spelling: str) -> None:
    ask = RequestFactory()
    for _ in range(5):
        assert attempts.consume(ask.post("/", REMOTE_ADDR=HOME), "lena", "password")
    assert try_to_sign_in(Client(), PASSWORD, name=spelling) == "wait"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.77", True),
    ],
)
def test_a_network_is_counted_and_not_its_addresses(first: str, second: str, same: bool) -> None:
    ask = RequestFactory()
    for _ in range(5):
        assert attempts.consume(ask.post("/", REMOTE_ADDR=first), "lena", "password")
    assert (attempts.consume(ask.post("/", REMOTE_ADDR=second), "lena", "password") is None) is same


def test_what_was_right_uses_up_nothing() -> None:
    browser = Client()
    for _ in range(6):
        assert try_to_sign_in(browser, PASSWORD) == "in"
        browser.post("/accounts/logout/")
        browser.cookies.clear()


@contextmanager
def hashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a password cost: each call of the hasher."""
    calls: list[str] = []

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            calls.append(method.__name__)
            return method(*given)

        return call

    with monkeypatch.context() as patch:
        for method in (Argon2PasswordHasher.encode, Argon2PasswordHasher.verify):
            patch.setattr(Argon2PasswordHasher, method.__name__, counted(method))
        yield calls


def test_it_answers_and_works_the_same_whoever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    User.objects.filter(username="vito").update(is_active=False)
    sso = User.objects.get(username="otto")
    sso.set_unusable_password()
    sso.save()
    seen = set()
    for name in ("lena", "vito", "otto", "nobody-at-all"):
        with hashing(monkeypatch) as calls:
            answer = Client().post("/accounts/login/", {"login": name, "password": WRONG})
        text = re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", answer.content.decode())
        text = re.sub(r"[0-9a-f]{24}", "", text.replace(name, "NAME"))  # the request's id
        seen.add((answer.status_code, text, len(calls), tuple(sorted(answer.headers))))
    assert len(seen) == 1, [(status, calls, headers) for status, _, calls, headers in seen]
