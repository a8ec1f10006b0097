"""Every page, light and dark, wide and narrow: no violation of the content policy, no error, nothing
that axe objects to, and nothing wider than the screen."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Visit, Visitor
from tests.browser.furniture import Scene

LOOKS = [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)]


def paths(scenes: dict[str, Scene]) -> list[str]:
    rotations = [f"/rotations/{scene.rotation.id}/" for scene in scenes.values()]
    shifting, waiting = scenes["shifting"].rotation.id, scenes["waiting"].rotation.id
    return [
        "/",
        "/matrix/",
        "/matrix/?q=nothing-is-called-so",
        "/keys/",
        "/keys/?show=overdue",
        "/search/",
        "/search/?q=background",
        "/keys/background-removal/prod/",
        "/keys/background-removal/dev/",
        "/keys/background-removal/staging/rotate/",
        "/keys/new/",
        "/services/new/",
        "/rotations/",
        *rotations,
        f"/rotations/{shifting}/abort/",
        f"/rotations/{waiting}/supply/",
        "/consumers/",
        "/consumers/new/",
        "/consumers/render-farm/",
        "/channels/",
        "/channels/new/",
        "/policies/",
        "/policies/standard/",
        "/audit/",
        "/audit/?q=key:promoted",
        "/accounts/password/change/",
        "/accounts/logout/",
    ]


def inspect(visitor: Visitor, path: str) -> list[str]:
    """What is wrong with this page."""
    wrong = []
    wide = visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wide > 0:
        wrong.append(f"{path}: {wide} px wider than the screen")
    found = Axe().run(visitor.page)
    for violation in found.response["violations"]:
        nodes = "; ".join(node["html"][:160] for node in violation["nodes"][:3])
        wrong.append(f"{path}: axe {violation['id']}: {nodes}")
    return wrong


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_every_page_is_clean(house: dict[str, Scene], visit: Visit, scheme: str, width: int) -> None:
    visitor = visit("lena", scheme=scheme, width=width)
    wrong = []
    for path in paths(house):
        assert visitor.open(path).status == 200, path
        wrong += inspect(visitor, path)
    assert wrong == []


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_entrance_is_clean(house: dict[str, Scene], visit: Visit, scheme: str, width: int) -> None:
    visitor = visit(scheme=scheme, width=width)
    visitor.expected = {404}
    wrong = []
    for path in ("/accounts/login/", "/setup/made-up/"):
        visitor.open(path)
        wrong += inspect(visitor, path)
    assert wrong == []


def test_the_records_keep_the_content_policy_too(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("ada")
    for path in ("/admin/", "/admin/keyvault/keyversion/", "/admin/rotation/rotation/"):
        assert visitor.open(path).status == 200


def test_a_page_that_is_not_there_and_one_that_is_refused(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("vito")
    visitor.expected = {403, 404}
    assert visitor.open("/nothing/").status == 404
    assert visitor.open("/keys/background-removal/prod/rotate/").status == 403
    assert inspect(visitor, "403") == []


def test_a_person_of_another_team_gets_404_and_a_signed_out_one_the_login(
    house: dict[str, Scene], visit: Visit
) -> None:
    omar = visit("omar")
    omar.expected = {404}
    rotation = f"/rotations/{house['shifting'].rotation.id}/"
    for path in ("/keys/background-removal/prod/", "/keys/background-removal/prod/reveal/", rotation):
        assert omar.open(path).status == 404
    omar.open("/matrix/")
    assert "product-photos" in omar.page.content()
    assert "background-removal" not in omar.page.content()
    nobody = visit()
    for path in ("/", "/matrix/", "/keys/background-removal/prod/", rotation):
        nobody.open(path)
        assert nobody.page.url.startswith(f"{nobody.origin}/accounts/login/?next=")


def test_the_keyboard_reaches_search_and_overview(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    visitor.open("/matrix/")
    visitor.page.keyboard.press("/")
    visitor.page.keyboard.type("video")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_url("**/matrix/?q=video**")
    assert "background-removal" not in visitor.page.inner_text("main")
    visitor.page.locator("h1").click()
    visitor.page.keyboard.press("g")
    visitor.page.keyboard.press("o")
    visitor.page.wait_for_url(visitor.origin + "/")


def test_the_keyboard_lists_its_keys_and_searches_everywhere(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    page = visitor.page
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    assert inspect(visitor, "help") == []
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("k")
    page.wait_for_url("**/keys/")
    visitor.open("/keys/background-removal/prod/")
    page.keyboard.press("/")
    page.keyboard.type("render")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search/?q=render")
    expect(page.locator("main")).to_contain_text("render-farm")


def test_the_skip_link_comes_first_and_goes_to_the_content(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    visitor.page.keyboard.press("Tab")
    assert visitor.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    visitor.page.keyboard.press("Enter")
    assert visitor.page.evaluate("document.activeElement.id") == "main"
