"""A lead's work in the browser: signing in, revealing, starting, pausing, aborting, supplying, granting."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent
from rotation.services import verbs
from rotation.simulators import RunningSimulator
from tests.browser.conftest import Visit, Visitor
from tests.browser.furniture import Scene

_numbers = itertools.count(1)
STAGES = "ol[aria-label=Stages]"


@pytest.fixture
def fresh(house: dict[str, Scene], running: dict[str, RunningSimulator], settings: object) -> Scene:
    """A key of the team Media in production that nothing happens to yet."""
    n = next(_numbers)
    first = house["shifting"]
    return Scene(
        running["removit"],
        settings,
        service=f"fresh-{n}",
        team=first.team,
        consumer=f"worker-{n}",
        now=clock.now() - timedelta(minutes=2),
        instances=3,
    )


def key_path(scene: Scene) -> str:
    return f"/keys/{scene.service.slug}/prod/"


def now_tick(scene: Scene) -> None:
    """Workers and the beat do what is due at this very moment."""
    scene.now = clock.now()
    scene.tick(0)


def start_by_clicks(visitor: Visitor, scene: Scene) -> None:
    visitor.open(key_path(scene))
    visitor.page.click("text=Rotate")
    visitor.page.wait_for_url("**/rotate/")
    expect(visitor.page.locator("h1")).to_contain_text("v1 → v2")
    visitor.page.fill("#id_reason", "quarterly")
    visitor.page.click("text=Start the rotation")
    visitor.page.wait_for_url("**/rotations/*/")


def test_a_wrong_password_is_refused_and_the_right_one_signs_in_and_out(
    house: dict[str, Scene], visit: Visit
) -> None:
    visitor = visit()
    visitor.sign_in("lena", "not the password at all")
    expect(visitor.page.get_by_role("alert")).to_be_visible()
    visitor.sign_in("lena")
    visitor.page.wait_for_url(visitor.origin + "/")
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Overview")
    visitor.page.click("text=Sign out")
    visitor.page.wait_for_url("**/accounts/login/")
    visitor.open("/")
    assert "/accounts/login/" in visitor.page.url


def test_a_secret_is_on_one_page_for_thirty_seconds_and_nowhere_else(fresh: Scene, visit: Visit) -> None:
    secret = fresh.secret(1).expose()
    visitor = visit("lena")
    page = visitor.page
    page.clock.install()
    for path in ("/", "/matrix/", key_path(fresh), "/audit/"):
        visitor.open(path)
        assert secret not in page.content()
    visitor.open(key_path(fresh))
    page.click("text=Reveal")
    visitor.confirm_password()
    page.wait_for_url("**/reveal/")
    assert secret not in page.content()
    page.fill("#id_reason", "moving to a new cluster")
    # From here on its time goes on only as it is told to, whatever the machine takes.
    page.clock.pause_at(clock.now() + timedelta(minutes=10))
    page.click("main button[type=submit]")
    expect(page.locator("#revealed")).to_have_text(secret)
    assert secret not in page.url
    assert secret not in page.title()
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, history.state])")
    assert secret not in stored

    page.clock.run_for(29_000)
    expect(page.locator("#revealed")).to_have_text(secret)
    page.clock.run_for(2_000)
    expect(page.locator("#revealed")).to_have_text("Hidden again")
    assert secret not in page.content()
    event = AuditEvent.objects.get(name="key:revealed", service=fresh.service.slug)
    assert (event.actor, event.reason) == ("lena", "moving to a new cluster")


def test_a_rotation_is_started_paused_resumed_and_aborted_by_clicks(fresh: Scene, visit: Visit) -> None:
    visitor = visit("lena")
    page = visitor.page
    fresh.lively(60)
    start_by_clicks(visitor, fresh)
    now_tick(fresh)
    expect(page.locator(STAGES)).to_contain_text("5 %")

    page.click("text=Pause at 5 %")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_text("Not now").click()
    expect(dialog).to_be_hidden()
    page.click("text=Pause at 5 %")
    dialog.get_by_label("Reason").fill("release day")
    dialog.get_by_role("button", name="Pause at 5 %").click()
    expect(page.get_by_text("Paused at 5 %.")).to_be_visible()
    assert fresh.rotation.paused

    page.click("#verb-resume")
    page.get_by_role("dialog").get_by_label("Reason").fill("it is out")
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.get_by_role("link", name="Pause at 5 %")).to_be_visible()

    page.click("text=Go back to v1")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("not today")
    button = dialog.get_by_role("button", name="Go back to v1")
    expect(button).to_be_disabled()
    dialog.get_by_label("Type").fill(f"{fresh.service.slug}/prod")
    expect(button).to_be_enabled()
    button.click()
    expect(page.get_by_text("Rolled back: aborted by a person.")).to_be_visible()
    assert fresh.rotation.stage == "rolled_back"
    assert fresh.honoured(1)


def test_a_rotation_page_follows_what_happens_without_reloading(fresh: Scene, visit: Visit) -> None:
    visitor = visit("lena")
    fresh.lively(60)
    start_by_clicks(visitor, fresh)
    visitor.page.evaluate("window.stillHere = true")
    now_tick(fresh)
    expect(visitor.page.locator(STAGES)).to_contain_text("5 %")
    verbs.pause(SYSTEM, fresh.rotation.id, reason="elsewhere", now=clock.now(), ring=lambda _: None)
    expect(visitor.page.get_by_text("Paused at 5 %.")).to_be_visible()
    assert visitor.page.evaluate("window.stillHere") is True


def test_everything_that_matters_works_without_scripts(fresh: Scene, visit: Visit) -> None:
    visitor = visit("lena", scripts=False)
    fresh.lively(60)
    start_by_clicks(visitor, fresh)
    now_tick(fresh)
    visitor.page.reload()
    visitor.page.click("text=Pause at 5 %")
    visitor.page.wait_for_url("**/pause/")
    visitor.page.fill("#id_reason", "release day")
    visitor.page.click("main button[type=submit]")
    expect(visitor.page.get_by_text("Paused at 5 %.")).to_be_visible()
    visitor.open(key_path(fresh))
    visitor.page.click("label[for=tab-terraform]")
    expect(visitor.page.locator("#snippet-terraform")).to_be_visible()
    expect(visitor.page.locator("#snippet-curl")).to_be_hidden()


def test_a_page_that_has_grown_old_answers_with_the_present_state(fresh: Scene, visit: Visit) -> None:
    visitor = visit("lena")
    visitor.expected = {409}
    fresh.lively(60)
    start_by_clicks(visitor, fresh)
    now_tick(fresh)
    visitor.open(f"/rotations/{fresh.rotation.id}/pause/")
    verbs.advance(SYSTEM, fresh.rotation.id, reason="elsewhere", now=clock.now(), ring=lambda _: None)
    visitor.page.fill("#id_reason", "release day")
    visitor.page.click("main button[type=submit]")
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("It has moved on")
    expect(visitor.page.locator("main")).to_contain_text("25 %")
    assert not fresh.rotation.paused


def test_a_key_is_supplied_by_pasting_and_each_refusal_has_its_word(
    house: dict[str, Scene], running: dict[str, RunningSimulator], settings: object, visit: Visit
) -> None:
    n = next(_numbers)
    scene = Scene(
        running["backgrounderase"], settings, service=f"pasted-{n}", team=house["shifting"].team,
        consumer=f"paster-{n}", now=clock.now() - timedelta(minutes=2), instances=2, driver="manual",
    )  # fmt: skip
    visitor = visit("lena")
    page = visitor.page
    visitor.expected = {422}
    start_by_clicks(visitor, scene)
    now_tick(scene)
    page.wait_for_selector("#verb-supply")
    page.click("#verb-supply")
    for wrong, word in (("with a blank", "space"), (scene.secret(1).expose(), "already holds")):
        page.fill("#id_secret", wrong)
        page.click("text=Seal and verify it")
        expect(page.locator(".errorlist")).to_contain_text(word)
        assert page.input_value("#id_secret") == ""
    made = scene.control.create_key("by hand")
    page.fill("#id_secret", made.value.expose())
    page.click("text=Seal and verify it")
    page.wait_for_url("**/rotations/*/")
    now_tick(scene)
    expect(page.locator("main")).to_contain_text("verified")
    assert made.value.expose() not in page.content()


def test_a_new_token_is_shown_once_and_can_be_copied(house: dict[str, Scene], visit: Visit) -> None:
    visitor = visit("lena")
    page = visitor.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.open("/consumers/render-farm/")
    page.select_option("#id_environment", "dev")
    page.click("text=Create the token")
    token = page.inner_text("#token")
    assert token.startswith("ktc_dev_")
    page.click("button[data-copy=token]")
    page.wait_for_function(
        "token => navigator.clipboard.readText().then((text) => text === token)", arg=token
    )
    page.click("text=I have stored it")
    expect(page.locator("#token")).to_have_count(0)
    assert token not in page.content()
