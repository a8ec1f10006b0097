"""The approvals queue: who sees what waits, deciding with the password, break-glass, and its review."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from keyvault import clock
from keyvault.actors import SYSTEM, actor_for
from keyvault.domain import Role
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent, User
from keyvault.services import people
from rotation import engine
from rotation.approvals import ALONE, approvals_of, counted
from rotation.facts import Stage
from rotation.models import Approval, Rotation, RotationPolicy
from rotation.notice_rows import Notice
from rotation.planned import rotation_digest
from rotation.policy import STANDARD, to_json
from rotation.services import approving, channels, notifying, reviews, starting
from tests.browser.furniture import person, plain_key
from tests.integration.console import House, add_service, build, client_of, confirm_password, fresh_client_of
from tests.integration.test_console_queries import queries

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def house() -> House:
    return build()


def asked_by(house: House, username: str = "lena", **needed: int) -> Rotation:
    """A rotation of prod that waits for approvals (one to start)."""
    policy, _ = RotationPolicy.objects.get_or_create(
        slug="careful",
        defaults={
            "document": to_json(replace(STANDARD, approvals=needed or {"start": 1})),
            "created_at": house.now,
        },
    )
    who = actor_for(User.objects.get(username=username))
    return starting.start(
        who, house.prod, policy=policy, reason="because of a <leak>", now=house.now, ring=lambda _: None
    )


def decide(client: Client, rotation: Rotation, decision: str = "approve", **more: str) -> Any:
    page = client.get(f"/approvals/{rotation.id}/")
    plan = page.context["form"].initial["plan"]
    data = {"plan": plan, "reason": "looks right", "decision": decision, **more}
    return client.post(f"/approvals/{rotation.id}/", data)


def text(answer: Any) -> str:
    return str(answer.content.decode())


# The queue ------------------------------------------------------------------------------------------


def test_an_empty_queue_says_where_approvals_come_from(house: House) -> None:
    page = text(client_of("lena").get("/approvals/"))
    assert "Nothing waits for you" in page
    assert "waiting for you" not in page


def test_what_waits_is_shown_with_who_asked_and_why_and_counted_in_the_menu(house: House) -> None:
    rotation = asked_by(house)
    page = text(client_of("otto").get("/approvals/"))
    assert "lena asked: “because of a &lt;leak&gt;”" in page
    assert "1 more approval(s) to start" in page
    assert "unlike the key's own" in page
    assert '<span class="count">1<span class="visually-hidden"> waiting for you' in page
    assert "Decide" in page
    rotation.refresh_from_db()
    assert rotation.stage == Stage.REQUESTED


def test_ones_own_request_is_shown_and_cannot_be_approved(house: House) -> None:
    rotation, lena = asked_by(house), fresh_client_of("lena")
    listed, page = text(lena.get("/approvals/")), text(lena.get(f"/approvals/{rotation.id}/"))
    for shown in (listed, page):
        assert "You asked for it, so another person has to approve it." in shown
        assert "waiting for you" not in shown
    assert 'value="approve"' not in page
    assert decide(lena, rotation).status_code == 403
    assert decide(lena, rotation, "decline").status_code == 403
    assert not Approval.objects.exists()


def test_a_viewer_looks_and_is_refused_and_a_stranger_gets_404(house: House) -> None:
    rotation, viewer = asked_by(house), fresh_client_of("vito")
    assert "Approving needs the role operator or lead" in text(viewer.get("/approvals/"))
    assert decide(viewer, rotation).status_code == 403
    stranger = fresh_client_of("stranger")
    assert "background-removal" not in text(stranger.get("/approvals/"))
    for path in (f"/approvals/{rotation.id}/", f"/approvals/{rotation.id}/break-glass/"):
        assert stranger.get(path).status_code == 404
        assert stranger.post(path, {"reason": "x", "decision": "approve"}).status_code == 404


@pytest.mark.parametrize("path", ["/approvals/", "/approvals/{id}/", "/approvals/{id}/break-glass/"])
def test_a_signed_out_person_is_sent_to_the_login(house: House, path: str) -> None:
    answer = Client().get(path.format(id=asked_by(house).id))
    assert answer["Location"].startswith("/accounts/login/?next=/")


def test_the_page_shows_the_plan_the_digest_and_what_differs_from_the_policy_of_the_key(house: House) -> None:
    page = client_of("otto").get(f"/approvals/{asked_by(house).id}/")
    assert [(one.label, one.was, one.now) for one in page.context["ask"].changes] == [
        ("Approvals", "none", "1 to start")
    ]
    for words in ("Unlike the policy of this key", "Digest of the plan", "Calls to the provider"):
        assert words in text(page)


def test_the_list_asks_as_often_for_many_as_for_one(house: House) -> None:
    asked_by(house)
    client = client_of("otto")
    client.get("/approvals/")
    few = queries(client, "/approvals/")
    for n in range(4):
        key = plain_key(
            add_service(house.team, f"more-{n}", house.now), "prod", f"Zq{n}81mPq04", now=house.now
        )
        starting.start(
            SYSTEM, key, policy=RotationPolicy.objects.get(slug="careful"), now=house.now, ring=lambda _: None
        )
    assert text(client.get("/approvals/")).count("Decide") >= 5
    assert queries(client, "/approvals/") == few


# The decision ---------------------------------------------------------------------------------------


def test_approving_asks_for_the_password_and_then_goes_on(house: House) -> None:
    rotation, otto = asked_by(house), client_of("otto")
    answer = decide(otto, rotation)
    assert answer.status_code == 302
    assert "/reauthenticate/" in answer["Location"]
    assert not Approval.objects.exists()
    confirm_password(otto, "/approvals/")
    assert decide(otto, rotation)["Location"] == "/approvals/"
    rotation.refresh_from_db()
    assert rotation.stage == Stage.DEPLOY
    assert AuditEvent.objects.get(name="rotation:approved").reason == "looks right"


def test_the_verb_page_asks_for_the_password_too(house: House) -> None:
    rotation = asked_by(house)
    assert "/reauthenticate/" in client_of("otto").get(f"/rotations/{rotation.id}/approve/")["Location"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reason": ""}, "This field is required."),
        ({"decision": "perhaps"}, "Select a valid choice."),
        ({"plan": ""}, "This field is required."),
        ({"reason": "x" * 501}, "at most 500 characters"),
    ],
)
def test_what_is_wrong_stands_at_its_field(house: House, given: dict[str, str], words: str) -> None:
    rotation = asked_by(house)
    answer = decide(fresh_client_of("otto"), rotation, **given)
    assert answer.status_code == 422
    assert words in text(answer)
    assert not Approval.objects.exists()


def test_another_plan_than_the_one_that_was_seen_is_409(house: House) -> None:
    rotation = asked_by(house)
    answer = decide(fresh_client_of("otto"), rotation, plan="0" * 64)
    assert answer.status_code == 409
    assert "The plan has changed since you looked at it." in text(answer)
    assert not Approval.objects.exists()


def test_declining_a_start_cancels_it_with_the_reason(house: House) -> None:
    rotation = asked_by(house)
    assert decide(fresh_client_of("otto"), rotation, "decline", reason="not this week").status_code == 302
    rotation.refresh_from_db()
    assert rotation.stage == Stage.CANCELLED
    told = AuditEvent.objects.get(name="rotation:declined")
    assert (told.actor, told.reason, told.details["transition"]) == ("otto", "not this week", "start")
    assert decide_after(rotation) == 409


def decide_after(rotation: Rotation) -> int:
    return int(client_of("otto").get(f"/approvals/{rotation.id}/").status_code)


def test_declining_later_pauses_and_takes_back_what_others_gave(house: House) -> None:
    rotation = asked_by(house, revoke=2)
    standing_at(rotation, "revoke", house.now)
    yes(house, "otto", rotation)
    assert counted(approvals_of(rotation, house.now), "revoke") == 1
    ada = actor_for(User.objects.get(username="ada"))
    approving.decline(ada, rotation.id, reason="wait for Monday", now=house.now, ring=lambda _: None)
    rotation.refresh_from_db()
    assert rotation.paused
    assert counted(approvals_of(rotation, house.now), "revoke") == 0


def standing_at(rotation: Rotation, transition: str, now: datetime) -> None:
    """As the engine leaves a rotation that waits there."""
    Rotation.objects.filter(pk=rotation.pk).update(waiting_code=f"approval_{transition}")
    rotation.refresh_from_db()


def yes(house: House, username: str, rotation: Rotation) -> None:
    """An approval as it stands, without letting the engine look."""
    Approval.objects.create(
        rotation=rotation, transition="revoke", user=User.objects.get(username=username),
        plan=rotation_digest(rotation), created_at=house.now, expires_at=house.now + 24 * HOUR,
    )  # fmt: skip


# Break-glass ----------------------------------------------------------------------------------------


def broken(house: House, rotation: Rotation, username: str = "lena") -> Approval:
    """This person decides alone, by the page."""
    client, path = fresh_client_of(username), f"/approvals/{rotation.id}/break-glass/"
    plan = client.get(path).context["form"].initial["plan"]
    answer = client.post(
        path, {"plan": plan, "reason": "nobody is awake", "confirm": "background-removal/prod"}
    )
    assert answer.status_code == 302, text(answer)
    return Approval.objects.get(review_due_at__isnull=False)


def test_one_person_goes_on_alone_and_another_one_reviews_it(house: House) -> None:
    rotation = asked_by(house)
    row = broken(house, rotation)
    rotation.refresh_from_db()
    assert rotation.stage == Stage.DEPLOY
    assert AuditEvent.objects.get(name="rotation:glass:broken").reason == "nobody is awake"
    lena, otto = fresh_client_of("lena"), fresh_client_of("otto")
    assert "You decided it alone, so another person has to review it." in text(lena.get("/approvals/"))
    review = {"verdict": "unsound", "note": "it could have waited"}
    assert lena.post(f"/reviews/{row.id}/", review).status_code == 403
    assert "waiting for you" in text(otto.get("/approvals/"))
    assert otto.post(f"/reviews/{row.id}/", review).status_code == 302
    row.refresh_from_db()
    assert (row.reviewer and row.reviewer.username, row.sound) == ("otto", False)
    assert "waiting for you" not in text(otto.get("/approvals/"))
    assert "it could have waited" in text(otto.get(f"/reviews/{row.id}/"))
    assert otto.post(f"/reviews/{row.id}/", review).status_code == 409
    told = AuditEvent.objects.get(name="rotation:glass:reviewed")
    assert told.details == {
        "rotation": str(rotation.id),
        "transition": "start",
        "who": "lena",
        "sound": False,
    }


def test_it_takes_a_lead_the_password_the_name_and_a_reason(house: House) -> None:
    rotation = asked_by(house)
    path = f"/approvals/{rotation.id}/break-glass/"
    assert fresh_client_of("otto").get(path).status_code == 403
    assert "/reauthenticate/" in client_of("lena").get(path)["Location"]
    lena = fresh_client_of("lena")
    plan = lena.get(path).context["form"].initial["plan"]
    for wrong in ({"reason": ""}, {"confirm": "background-removal/dev"}, {"reason": "   "}):
        answer = lena.post(
            path, {"plan": plan, "reason": "now", "confirm": "background-removal/prod", **wrong}
        )
        assert answer.status_code == 422
    assert not Approval.objects.exists()


def test_it_stands_for_as_many_as_are_needed_under_this_plan_only(house: House) -> None:
    rotation = asked_by(house, start=5)
    broken(house, rotation)
    rotation = Rotation.objects.get(pk=rotation.pk)
    assert counted(approvals_of(rotation, house.now), "start") == ALONE
    assert counted(approvals_of(rotation, house.now + 25 * HOUR), "start") == 0
    Approval.objects.update(plan="0" * 64)
    assert counted(approvals_of(rotation, house.now), "start") == 0


def test_a_second_account_of_the_same_person_does_not_review(house: House) -> None:
    row = broken(house, asked_by(house))
    User.objects.filter(username="lena").update(email="lena@example.org")
    second = person("second")
    User.objects.filter(pk=second.pk).update(email="Lena@example.org")
    people.set_member(SYSTEM, house.team, username="second", role=Role.LEAD, now=house.now)
    with pytest.raises(KeyturnError) as refusal:
        reviews.review(actor_for(second), row, sound=True, note="fine", now=house.now)
    assert refusal.value.code == "permission_denied"


@pytest.mark.parametrize("wrong", [{"verdict": "perhaps"}, {"note": ""}, {"note": "x" * 501}])
def test_a_review_says_what_was_found(house: House, wrong: dict[str, str]) -> None:
    row = broken(house, asked_by(house))
    answer = fresh_client_of("otto").post(
        f"/reviews/{row.id}/", {"verdict": "sound", "note": "read it", **wrong}
    )
    assert answer.status_code == 422
    assert (
        fresh_client_of("vito").post(f"/reviews/{row.id}/", {"verdict": "sound", "note": "x"}).status_code
        == 403
    )
    assert fresh_client_of("stranger").get(f"/reviews/{row.id}/").status_code == 404


def test_a_break_glass_is_told_to_everybody_and_an_overdue_review_once(house: House) -> None:
    for slug, level in (("owners", "owner"), ("leads", "lead")):
        channels.create_channel(
            SYSTEM, slug=slug, team=house.team, kind="mail", url=None,
            fields={"level": level, "addresses": [f"{slug}@example.org"]}, now=house.now,
        )  # fmt: skip
    row = broken(house, asked_by(house))
    kinds = Notice.objects.filter(kind="rotation.break_glass")
    assert sorted(kinds.values_list("channel__slug", flat=True)) == ["leads", "owners"]
    assert row.review_due_at is not None
    for late in (timedelta(seconds=-1), timedelta(0), HOUR):
        notifying.tick(row.review_due_at + late, ring=lambda _: None)
        assert AuditEvent.objects.filter(name="rotation:glass:overdue").count() == (late >= timedelta(0))
    assert Notice.objects.filter(kind="rotation.review_overdue").count() == 2


def test_a_reviewed_one_is_never_overdue(house: House) -> None:
    row = broken(house, asked_by(house))
    otto = actor_for(User.objects.get(username="otto"))
    reviews.review(otto, row, sound=True, note="agreed", now=clock.now())
    reviews.tell_overdue(house.now + 99 * HOUR)
    assert not AuditEvent.objects.filter(name="rotation:glass:overdue").exists()


def test_a_plain_approval_does_not_wipe_out_a_break_glass_of_the_same_person(house: House) -> None:
    rotation = asked_by(house, start=2, revoke=1)
    row = broken(house, rotation, "ada")
    assert engine.lock(rotation.id).stage == Stage.DEPLOY
    standing_at(rotation, "start", house.now)
    ada = actor_for(User.objects.get(username="ada"))
    approving.approve(ada, rotation.id, reason="again", now=house.now, ring=lambda _: None)
    row.refresh_from_db()
    assert (row.reason, row.review_due_at is not None) == ("nobody is awake", True)
    assert Approval.objects.count() == 2
