"""Accounts in the browser: a passkey, an authenticator app, and the pages of teams, people and oneself."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from keyvault.models import User
from tests.browser.conftest import Visit, Visitor
from tests.browser.furniture import PASSWORD, Scene, person
from tests.browser.looking import inspect
from tests.integration.signing_in import code_of


def with_keys(visitor: Visitor) -> Page:
    """A browser that has a passkey of its own, and is asked by a name: an address has no passkeys."""
    page = visitor.page
    devices = page.context.new_cdp_session(page)
    devices.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    devices.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    visitor.origin = visitor.origin.replace("127.0.0.1", "localhost")
    return page


def test_a_passkey_is_added_signs_in_by_itself_and_confirms(house: dict[str, Scene], visit: Visit) -> None:
    person("paula")
    visitor = visit()
    page = with_keys(visitor)
    visitor.sign_in("paula")
    page.wait_for_url(visitor.origin + "/")
    visitor.open("/accounts/2fa/passkeys/add/")
    visitor.confirm_password()
    page.wait_for_url("**/passkeys/add/")
    assert inspect(visitor, "add a passkey") == []
    page.click("text=Add it")
    page.wait_for_url("**/2fa/codes/")
    expect(page.locator("#codes")).to_have_text(re.compile(r"(\d{8}\s*){10}"))
    page.click("text=I have stored them")
    page.click("text=Sign out")
    page.wait_for_url("**/accounts/login/")
    page.click("text=Sign in with a passkey")
    page.wait_for_url(visitor.origin + "/")
    visitor.open("/accounts/2fa/codes/new/")
    page.wait_for_url("**/passkeys/reauthenticate/**")
    assert inspect(visitor, "confirm with a passkey") == []
    page.click("text=Use your passkey")
    page.wait_for_url("**/2fa/codes/new/")
    visitor.open("/accounts/2fa/passkeys/")
    assert inspect(visitor, "the passkeys") == []
    expect(page.locator("main")).to_contain_text("signs you in by itself")


def test_an_app_is_scanned_from_the_page_and_asked_for_without_scripts(
    house: dict[str, Scene], visit: Visit
) -> None:
    person("anton")
    visitor = visit(scripts=False)
    page = visitor.page
    visitor.sign_in("anton")
    visitor.open("/accounts/2fa/app/")
    visitor.confirm_password()
    page.click("text=It cannot scan")
    expect(page.locator(".qr svg")).to_be_visible()
    seed = page.locator("#seed").inner_text()
    page.fill("#id_code", code_of(seed))
    page.click("text=Turn it on")
    page.wait_for_url("**/2fa/codes/")
    codes = page.locator("#codes").inner_text().split()
    page.click("text=Sign out")
    visitor.sign_in("anton")
    page.wait_for_url("**/2fa/authenticate/")
    page.fill("#id_code", codes[0])
    page.click("text=Sign in")
    page.wait_for_url(visitor.origin + "/")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_pages_of_people_are_clean(
    house: dict[str, Scene], visit: Visit, scheme: str, width: int
) -> None:
    visitor = visit("ada", scheme=scheme, width=width)
    vito = User.objects.get(username="vito").pk
    paths = ["/teams/", "/team/media/", "/people/", f"/people/{vito}/", "/profile/", "/accounts/2fa/"]
    wrong = []
    for path in paths:
        assert visitor.open(path).status == 200, path
        wrong += inspect(visitor, path)
    assert wrong == []


def test_a_link_brings_somebody_new_into_the_team(house: dict[str, Scene], visit: Visit) -> None:
    visitor, name = visit("lena"), "nora"
    page = visitor.page
    visitor.open("/team/media/")
    page.fill("#id_user", name)
    page.select_option("#id_role", "operator")
    page.click("text=Make a set-up link")
    address = page.locator("#link").inner_text()
    assert inspect(visitor, "the link") == []
    other = visit()
    other.page.goto(address)
    assert inspect(other, "join") == []
    other.page.fill("#id_password", PASSWORD)
    other.page.fill("#id_again", PASSWORD)
    other.page.click("text=Set the password")
    other.page.wait_for_url("**/accounts/login/")
    other.sign_in(name)
    other.page.wait_for_url(other.origin + "/")
    page.click("text=I have passed it on")
    row = page.locator("tr", has_text=name)
    row.get_by_role("combobox").select_option("viewer")
    row.get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("nora is viewer now")
    page.locator("tr", has_text=name).get_by_role("link").click()
    assert inspect(visitor, "remove") == []
    page.get_by_role("button", name="Remove nora").click()
    expect(page.get_by_role("status")).to_contain_text("no longer a member")


def test_sessions_and_tokens_are_ended_from_the_profile(house: dict[str, Scene], visit: Visit) -> None:
    here, there = visit("vito"), visit("vito")
    page = here.page
    here.open("/profile/")
    page.click("text=End all others")
    expect(page.get_by_role("status")).to_contain_text("ended")
    there.open("/matrix/")
    assert "/accounts/login/" in there.page.url
    page.click("text=Create a token")
    here.confirm_password()
    expect(page.locator("#token")).to_contain_text("ktu_")
    assert inspect(here, "the token") == []
    page.click("text=I have stored it")
    page.click("text=Revoke")
    expect(page.get_by_role("status")).to_contain_text("is revoked")
