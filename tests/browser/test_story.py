"""The whole life of a key by clicks only, as people live it who have only the pages."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import Any

from playwright.sync_api import Page, expect

from keyvault import clock
from keyvault.models import Environment, Key, Provider, Service
from rotation.models import RotationPolicy
from rotation.policy import to_json
from rotation.simulators import RunningSimulator
from tests.browser.conftest import Visit, Visitor
from tests.browser.furniture import BRISK, Scene
from tests.stories.world import Instance

STAGES = "ol[aria-label=Stages]"
NAME = "story-cutout"


class Followed(Scene):
    """The workers, the beat and the consumers of a key that was made by clicks."""

    def __init__(self, simulator: RunningSimulator) -> None:
        self.now, self.simulator, self.control = clock.now(), simulator, simulator.control
        self.service = Service.objects.select_related("team", "provider").get(slug=NAME)
        self.team, self.provider = self.service.team, self.service.provider
        self.environment = Environment.objects.get(slug="dev")
        self.policy = RotationPolicy.objects.get(slug="story")
        self.key_id = Key.objects.get(service=self.service, environment=self.environment).id
        self.consumer, self.token = self._named_consumer("story-worker")
        self.instances = [Instance(f"story-worker-{i}") for i in range(3)]
        self.failures, self.requests, self.rung = Counter(), 0, deque()

    def run_to_weight(self, weight: int) -> None:
        self.run(lambda: self.rotation.weight == weight)


def import_by_clicks(visitor: Visitor, secret: str, provider: str) -> None:
    page = visitor.page
    visitor.open("/services/new/")
    page.fill("#id_slug", NAME)
    page.select_option("#id_team", "media")
    page.select_option("#id_provider", provider)
    page.click("main button[type=submit]")
    page.wait_for_url("**/keys/new/**")
    page.check("#id_in_dev")
    page.fill("#id_secret_dev", secret)
    page.select_option("#id_policy", "story")
    page.click("text=Add the key")
    page.wait_for_url(f"**/keys/{NAME}/dev/")
    assert secret not in page.content()


def start_by_clicks(visitor: Visitor, versions: str) -> None:
    page = visitor.page
    visitor.open(f"/keys/{NAME}/dev/")
    page.click("text=Rotate")
    page.wait_for_url("**/rotate/")
    expect(page.locator("h1")).to_contain_text(versions)
    page.fill("#id_reason", "quarterly")
    page.click("text=Start the rotation")
    page.wait_for_url("**/rotations/*/")


def say(page: Page, verb: str, reason: str) -> None:
    """One verb of the rotation that is open, with its reason."""
    page.reload()
    page.click(f"#verb-{verb}")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(reason)
    dialog.locator("button[type=submit]").click()


def approve_by_clicks(visitor: Visitor, rotation: str) -> None:
    page = visitor.page
    visitor.open("/approvals/")
    page.click(f'a[href="/approvals/{rotation}/"]')
    page.get_by_label("Reason").fill("the numbers are good")
    page.click("button[value=approve]")
    visitor.confirm_password()
    page.wait_for_url("**/approvals/")


def test_a_key_is_imported_rotated_aborted_rotated_again_approved_and_finished(
    house: dict[str, Scene], running: dict[str, RunningSimulator], settings: Any, visit: Visit
) -> None:
    simulator = running["removit"]
    settings.KEYTURN_EGRESS_ALLOW = frozenset(settings.KEYTURN_EGRESS_ALLOW) | {simulator.host_port}
    document = to_json(replace(BRISK, approvals={"revoke": 1}))
    RotationPolicy.objects.create(slug="story", document=document, created_at=clock.now())
    provider = Provider.objects.get(base_url=simulator.base_url, slug=simulator.control.slug)
    lena = visit("lena")
    first = simulator.control.create_key("made by hand")
    import_by_clicks(lena, first.value.expose(), provider.slug)

    story = Followed(simulator)
    story.tick(0)
    start_by_clicks(lena, "v1 → v2")
    for weight in (5, 25):
        story.run_to_weight(weight)
        expect(lena.page.locator(STAGES)).to_contain_text(f"{weight} %")
    say(lena.page, "abort", "not today")
    expect(lena.page.get_by_text("Rolled back: aborted by a person.")).to_be_visible()
    assert story.honoured(1)

    start_by_clicks(lena, "v1 → v3")
    story.run(lambda: story.rotation.waiting_code == "approval_revoke", step=40)
    approve_by_clicks(visit("ada"), str(story.rotation.id))
    # The provider's name of a pasted key is not known, so a person revokes it there and says so.
    story.run(lambda: "confirm-revoked" in story.rotation.attention_verbs, step=40)
    simulator.control.revoke(first.id)
    say(lena.page, "confirm-revoked", "revoked on their page")
    story.run_to("succeeded", step=40)
    lena.page.reload()
    expect(lena.page.locator("main")).to_contain_text("v3 answers everybody; v1 is dead.")
    assert story.honoured(3)
    assert not story.honoured(1)
    assert sum(story.failures.values()) == 0
