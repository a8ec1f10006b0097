"""Pages on which much is going on, and the manners of all of them. ``test_walk.py`` goes to every page."""

from __future__ import annotations

from playwright.sync_api import expect

from keyvault import clock
from tests.browser.conftest import Visit
from tests.browser.furniture import Scene
from tests.browser.looking import LOOKS, judged, look


def paths(scenes: dict[str, Scene]) -> list[str]:
    """Those that show other things than in an empty house."""
    rotations = [f"/rotations/{scene.rotation.id}/" for scene in scenes.values()]
    return [
        "/",
        "/matrix/",
        "/matrix/?q=nothing-is-called-so",
        "/keys/",
        "/keys/?show=overdue",
        "/search/?q=background",
        "/keys/background-removal/prod/",
        "/keys/background-removal/dev/",
        "/keys/background-removal/staging/rotate/",
        "/rotations/",
        *rotations,
        f"/rotations/{scenes['shifting'].rotation.id}/abort/",
        "/consumers/render-farm/",
        "/audit/?q=key:promoted",
    ]


def test_every_page_of_a_busy_house_is_clean(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    wrong = []
    for path in paths(house):
        assert visitor.open(path).status == 200, path
        for scheme, width in LOOKS:
            look(visitor.page, scheme, width)
            wrong += [f"{path} ({scheme}, {width} px): {found}" for found in judged(visitor.page)]
    assert not wrong, "\n".join(wrong)


def test_a_page_that_is_not_there_and_one_that_is_refused(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("vito")
    visitor.expected = {403, 404}
    assert visitor.open("/nothing/").status == 404
    assert visitor.open("/keys/background-removal/prod/rotate/").status == 403
    assert judged(visitor.page) == []


def test_lists_hold_nothing_of_other_teams(house: dict[str, Scene], visit: Visit) -> None:
    omar = visit("omar")
    for path in ("/matrix/", "/keys/", "/rotations/", "/search/?q=a"):
        omar.open(path)
        assert 'href="/keys/background-removal' not in omar.page.content(), path
    omar.open("/matrix/")
    assert "product-photos" in omar.page.content()


def test_the_back_button_shows_nothing_to_who_comes_after(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    page = visitor.page
    visitor.open("/keys/background-removal/prod/")
    page.click("text=Sign out")
    page.wait_for_url("**/accounts/login/")
    for _ in range(2):
        page.go_back()
        assert "/accounts/login/" in page.url
        assert "background-removal" not in page.inner_text("body")


def test_the_keyboard_reaches_search_and_overview(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    visitor.page.clock.set_fixed_time(clock.now())  # two keys that follow each other soon are one word
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
    page.clock.set_fixed_time(clock.now())
    visitor.open("/")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    assert judged(page) == []
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
