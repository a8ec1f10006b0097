"""Approvals, policies, providers and the audit in the browser: clean pages, and their work by clicks."""

from __future__ import annotations

from dataclasses import replace

from playwright.sync_api import expect

from keyvault import clock
from keyvault.actors import SYSTEM, actor_for
from keyvault.models import Provider, Service, Team, User
from keyvault.services import catalogue
from rotation.models import Approval, Rotation, RotationPolicy
from rotation.policy import FAST, to_json
from rotation.services import policies, starting
from tests.browser.conftest import Visit
from tests.browser.furniture import Scene, plain_key
from tests.browser.looking import inspect


def asked(name: str) -> Rotation:
    """A rotation of this service's dev key that lena asked for, and that waits for two to say yes."""
    known = Rotation.objects.filter(key__service__slug=name, finished_at__isnull=True).first()
    if known is not None:
        return known
    now = clock.now()
    policy = RotationPolicy.objects.filter(slug="two-say-yes").first() or policies.create_policy(
        SYSTEM, slug="two-say-yes", document=to_json(replace(FAST, approvals={"start": 2})), now=now
    )
    internal, media = Provider.objects.get(slug="internal"), Team.objects.get(slug="media")
    service = Service.objects.filter(slug=name).first() or catalogue.create_service(
        SYSTEM, slug=name, team=media, provider=internal, description="", now=now
    )
    key = plain_key(service, "dev", f"made-up-{name}-b7Xq2Lm9", now=now)
    lena = actor_for(User.objects.get(username="lena"))
    reason = "the yearly audit asks for it"
    return starting.start(lena, key, policy=policy, reason=reason, now=now, ring=lambda _: None)


def test_a_lead_breaks_the_glass_and_another_person_reviews_it(house: dict[str, Scene], visit: Visit) -> None:
    row = asked("by-clicks")
    lena, ada = visit("lena"), visit("ada")
    lena.page.click("nav >> text=Approvals")
    expect(lena.page.locator("main")).to_contain_text(
        "You asked for it, so another person has to approve it."
    )
    lena.open(f"/approvals/{row.id}/")
    assert lena.page.locator("button[value=approve]").count() == 0
    lena.page.click("text=Break the glass")
    lena.confirm_password()
    lena.page.fill("#id_reason", "nobody else is awake")
    lena.page.fill("#id_confirm", "by-clicks/dev")
    assert inspect(lena, "break-glass") == []
    lena.page.click("button:has-text('alone')")
    expect(lena.page.locator("main")).to_contain_text("Another person has to review it within 24 hours.")
    ada.open("/approvals/")
    ada.page.click("a[aria-label$='by-clicks/dev']")
    ada.page.check("input[value=sound]")
    ada.page.fill("#id_note", "the provider was down, and nobody else was there")
    ada.page.click("text=Write the review")
    ada.confirm_password()
    expect(ada.page.locator("main")).to_contain_text("Reviewed lately")
    assert Approval.objects.get(rotation=row).reviewed_at is not None


def test_an_approver_declines_with_the_password(house: dict[str, Scene], visit: Visit) -> None:
    row, ada = asked("declined"), visit("ada")
    ada.open("/approvals/")
    ada.page.click("a[aria-label^=Decide][aria-label$='declined/dev']")
    ada.page.fill("#id_reason", "not this week")
    ada.page.click("button[value=decline]")
    ada.confirm_password()
    expect(ada.page.locator("main")).to_contain_text("Declined, with your reason in its timeline.")
    row.refresh_from_db()
    assert row.stage == "cancelled"


def test_a_policy_is_changed_after_a_look_at_what_changes(house: dict[str, Scene], visit: Visit) -> None:
    asked("waits-for-two")
    ada = visit("ada")
    ada.open("/policies/two-say-yes/")
    ada.page.click("text=Change it")
    ada.page.fill("#id_quiet", "7 min")
    ada.page.click("text=Show what changes")
    expect(ada.page.locator("main")).to_contain_text("Quiet before revoke")
    assert inspect(ada, "what changes") == []
    ada.page.click("button:has-text('Save two-say-yes')")
    ada.page.wait_for_url("**/policies/two-say-yes/")
    expect(ada.page.locator("main")).to_contain_text("7 min")


def test_a_provider_is_tried_out_and_events_are_taken_away(house: dict[str, Scene], visit: Visit) -> None:
    ada = visit("ada")
    ada.open("/providers/internal/")
    ada.page.click("text=Try it now")
    expect(ada.page.locator("main [role=status]")).to_contain_text("is refused, as it must be")
    assert inspect(ada, "tried") == []
    ada.open("/audit/?event=provider:tested")
    with ada.page.expect_download() as begun:
        ada.page.click("text=Export CSV")
    lines = begun.value.path().read_text("utf-8").splitlines()
    assert lines[0].startswith("sequence,at,event")
    assert "provider:tested" in lines[1]
