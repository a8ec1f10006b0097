"""What the tests of accounts share: signing in as people do, and an authenticator app."""

from __future__ import annotations

import re

from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.core.cache import cache
from django.test import Client

from tests.browser.furniture import PASSWORD


def sign_in(username: str, password: str = PASSWORD) -> Client:
    """A browser in which this person has typed name and password."""
    client = Client(headers={"User-Agent": "a browser"})
    answer = client.post("/accounts/login/", {"login": username, "password": password})
    assert answer.status_code == 302, answer.content[:400]
    return client


def is_in(client: Client) -> bool:
    return "/accounts/login/" not in client.get("/matrix/").headers.get("Location", "")


def confirm(client: Client) -> None:
    assert client.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": "/"}).status_code == 302


def code_of(seed: str) -> str:
    """What the app shows at this moment."""
    _, now, _ = yield_hotp_counters_from_time()
    return str(format_hotp_value(hotp_value(seed, now)))


def wrong_code(seed: str) -> str:
    """A code that the app shows neither now nor soon."""
    _, now, _ = yield_hotp_counters_from_time()
    shown = {format_hotp_value(hotp_value(seed, counter)) for counter in range(now - 5, now + 6)}
    return next(code for code in (f"{number:06}" for number in range(len(shown) + 1)) if code not in shown)


def new_app(client: Client) -> str:
    """Set up an authenticator app; returns its seed. The memory of used codes is emptied afterwards."""
    confirm(client)
    page = client.get("/accounts/2fa/app/").content.decode()
    found = re.search(r'<code id="seed">([A-Z2-7]+)</code>', page)
    assert found is not None, page
    answer = client.post("/accounts/2fa/app/", {"code": code_of(found[1])})
    assert answer.headers["Location"] == "/accounts/2fa/codes/", answer.content
    cache.clear()
    return found[1]
