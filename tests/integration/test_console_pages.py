"""What the pages do: reveal, create, start, choose, refuse, and answer what has not changed with 304."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from keyvault import audit, clock
from keyvault.console.activity import _SENTENCES
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.models import (
    AuditEvent,
    Consumer,
    ConsumerToken,
    Grant,
    Heartbeat,
    Key,
    KeyVersion,
    Service,
    User,
    Verification,
)
from keyvault.services import seats
from keyvault.setup import create_setup_token
from rotation.console.choices import _approve
from rotation.console.forms import VerbForm
from rotation.models import KeySchedule, Rotation
from tests.browser.furniture import plain_key
from tests.integration.console import SECRET, House, build, client_of, confirm_password, deliver

pytestmark = pytest.mark.django_db

KEY = "/keys/background-removal/prod/"


@pytest.fixture
def house() -> House:
    return build()


def text_of(client: Client, path: str, **more: str) -> str:
    return client.get(path, more).content.decode()


def mark_of(client: Client, path: str) -> str:
    found = re.search(r'name="mark" value="([^"]+)"', text_of(client, path))
    assert found is not None
    return found[1]


# Reveal ----------------------------------------------------------------------------------------------


def test_a_reveal_asks_for_the_password_then_for_a_reason_and_is_audited(house: House) -> None:
    lead = client_of("lena")
    first = lead.get(KEY + "reveal/")
    assert first.status_code == 302
    assert first["Location"].startswith("/accounts/reauthenticate/")
    confirm_password(lead, KEY + "reveal/")

    assert lead.post(KEY + "reveal/", {"reason": " "}).status_code == 422
    assert not AuditEvent.objects.filter(name="key:revealed").exists()
    shown = lead.post(KEY + "reveal/", {"reason": "moving to a new cluster"})
    assert SECRET in shown.content.decode()
    assert shown["Cache-Control"] == "no-store"
    assert shown["Refresh"] == f"35; url={KEY}"
    event = AuditEvent.objects.get(name="key:revealed")
    assert (event.actor, event.reason) == ("lena", "moving to a new cluster")


def test_one_person_reveals_a_few_keys_in_a_minute_and_no_more(house: House) -> None:
    lead = client_of("lena")
    confirm_password(lead, KEY + "reveal/")
    # Should a minute end meanwhile, twice as many are shown, but never all of these.
    answers = [lead.post(KEY + "reveal/", {"reason": "looking"}) for _ in range(21)]
    shown = sum(answer.status_code == 200 for answer in answers)
    assert 10 <= shown <= 20
    assert {answer.status_code for answer in answers} == {200, 429}
    assert AuditEvent.objects.filter(name="key:revealed").count() == shown
    assert all(SECRET not in answer.content.decode() for answer in answers if answer.status_code == 429)


def test_no_other_page_holds_the_secret(house: House) -> None:
    lead = client_of("lena")
    confirm_password(lead, KEY + "reveal/")
    for path in (KEY, KEY + "reveal/", "/", "/matrix/", "/audit/", KEY + "rotate/"):
        assert SECRET not in text_of(lead, path), path


def test_a_key_that_is_never_shown_has_no_button_and_says_why(house: House) -> None:
    lead = client_of("lena")
    assert lead.post(KEY + "never-shown/", {"never_shown": "1"}).status_code == 302
    page = text_of(lead, KEY)
    assert "Reveal</a>" not in page
    assert "never shown to people" in page
    confirm_password(lead, KEY)
    answer = lead.post(KEY + "reveal/", {"reason": "please"})
    assert answer.status_code == 403
    assert SECRET not in answer.content.decode()


def test_showing_a_key_again_asks_who_it_is_first(house: House) -> None:
    lead = client_of("lena")
    lead.post(KEY + "never-shown/", {"never_shown": "1"})
    answer = lead.post(KEY + "never-shown/", {"never_shown": ""})
    assert "/accounts/reauthenticate/" in answer.headers["Location"]
    assert house.prod.never_shown
    confirm_password(lead, KEY)
    lead.post(KEY + "never-shown/", {"never_shown": ""})
    assert not house.prod.never_shown


# The key page ----------------------------------------------------------------------------------------


def test_the_key_page_tells_who_read_which_version(house: House, settings: object) -> None:
    deliver(house.prod, house.now, consumer="billing", instance="web-7")
    page = text_of(client_of("lena"), KEY)
    assert "billing" in page
    assert "web-7" in page
    version = house.prod.current
    assert version is not None
    assert version.short_fingerprint in page


def test_the_key_page_tells_who_verified_which_version(house: House) -> None:
    secret = mint(TokenKind.ISSUED, "dev").expose()
    key = plain_key(house.service, "dev", secret, now=house.now - timedelta(days=3))
    page = "/keys/background-removal/dev/"
    assert "Who verified it" not in text_of(client_of("lena"), page)
    assert text_of(client_of("lena"), "/matrix/").count("not used lately") == 2
    for code, times in (("valid", 41), ("expired", 1)):
        Verification.objects.create(
            at=house.now - timedelta(hours=2), version=key.versions.get(), code=code, count=times
        )
    shown = text_of(client_of("lena"), page)
    rows = re.findall(
        r"<th scope=\"row\">forward-auth</th><td>v1</td><td class=\"mono\">(\w+)</td>.*?(\d+)<", shown
    )
    assert sorted(rows) == [("expired", "1"), ("valid", "41")]
    assert text_of(client_of("lena"), "/matrix/").count("not used lately") == 1


def test_snippets_carry_the_real_address_and_no_token(house: House, settings: object) -> None:
    settings.KEYTURN_URL = "https://keys.example.org"  # type: ignore[attr-defined]
    page = text_of(client_of("lena"), KEY)
    assert page.count("https://keys.example.org/v1/keys/background-removal/prod/") >= 4
    assert "background-removal/prod" in page
    assert "ktc_" not in page


# Making things ---------------------------------------------------------------------------------------


def test_a_lead_adds_a_service_and_pastes_its_first_key(house: House) -> None:
    lead = client_of("lena")
    made = lead.post("/services/new/", {"slug": "video-cutout", "team": "media", "provider": "internal"})
    assert made["Location"] == "/keys/new/?service=video-cutout"
    answer = lead.post(
        "/keys/new/",
        {
            "service": "video-cutout",
            "source": "paste",
            "in_dev": "on",
            "secret_dev": "pasted-Jh3kLm90QQ",
            "in_prod": "on",
            "secret_prod": "pasted-Rt7yUi55WW",
            "never_shown_prod": "on",
        },
    )
    assert answer["Location"] == "/keys/video-cutout/dev/"
    keys = list(Key.objects.filter(service__slug="video-cutout").select_related("environment", "current"))
    assert [(key.environment.slug, key.never_shown) for key in keys] == [("dev", False), ("prod", True)]
    assert all(key.current is not None for key in keys)
    assert KeySchedule.objects.filter(key__in=keys).count() == 2


def test_environments_are_chosen_but_for_the_protected_one_which_is_never_shown(house: House) -> None:
    page = text_of(client_of("lena"), "/keys/new/")
    boxes = dict(re.findall(r'name="((?:in|never_shown)_\w+)" id="\w+"( checked)?', page))
    assert boxes["in_dev"]
    assert not boxes["in_prod"]
    assert boxes["never_shown_prod"]
    assert not boxes["never_shown_dev"]


def test_one_refused_environment_leaves_no_key_in_the_others(house: House) -> None:
    same = {"secret_dev": "pasted-Jh3kLm90QQ", "secret_staging": "pasted-Jh3kLm90QQ"}
    wanted = {"service": "background-removal", "source": "paste", "in_dev": "on", "in_staging": "on"}
    lead = client_of("lena")
    answer = lead.post("/keys/new/", {**wanted, **same})
    assert answer.status_code == 422
    assert "This is the key for dev again" in answer.content.decode()
    answer = lead.post("/keys/new/", {**wanted, **same, "secret_staging": SECRET})
    assert "already held under another environment" in answer.content.decode()
    answer = lead.post("/keys/new/", {**wanted, **same, "in_staging": ""})
    assert "Check staging too" in answer.content.decode()
    assert Key.objects.count() == 1


@pytest.mark.parametrize(
    ("pasted", "word"),
    [
        (" starts-with-a-blank-81", "blank|space"),
        ("<your-api-key>", "placeholder"),
        ('"quoted-secret-1234"', "quotation"),
        (SECRET, "another environment"),
        ("", "Paste the key"),
    ],
)
def test_a_refused_secret_says_why_is_not_echoed_and_leaves_nothing(
    house: House, pasted: str, word: str
) -> None:
    answer = client_of("lena").post(
        "/keys/new/",
        {"service": "background-removal", "source": "paste", "in_dev": "on", "secret_dev": pasted},
    )
    page = answer.content.decode()
    assert answer.status_code == 422
    assert re.search(word, page, re.IGNORECASE)
    assert not pasted or pasted not in page.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert not Key.objects.named("background-removal", "dev").exists()


def test_a_key_that_the_driver_can_issue_starts_with_a_rotation(house: House) -> None:
    answer = client_of("lena").post(
        "/keys/new/", {"service": "background-removal", "in_dev": "on", "source": "issue"}
    )
    rotation = Rotation.objects.get(key__environment__slug="dev")
    assert answer["Location"] == f"/rotations/{rotation.id}/"
    assert rotation.trigger == "first"


def test_a_name_that_is_taken_is_said_at_its_field(house: House) -> None:
    answer = client_of("lena").post(
        "/services/new/", {"slug": "background-removal", "team": "media", "provider": "internal"}
    )
    assert answer.status_code == 422
    assert "exists already" in answer.content.decode()
    assert Service.objects.count() == 1


def test_a_token_is_shown_once(house: House) -> None:
    lead = client_of("lena")
    lead.post("/consumers/new/", {"slug": "billing", "team": "media"})
    made = lead.post(
        "/consumers/billing/tokens/",
        {"environment": "dev", "life": "30", "cidrs": "10.0.0.0/8", "instance_limit": "3"},
    )
    assert made.status_code == 201
    assert "3 instances within an hour" in made.content.decode()
    assert made["Cache-Control"] == "no-store"
    token = re.search(r"ktc_dev_\w{49}", made.content.decode())
    assert token is not None
    assert token[0] not in text_of(lead, "/consumers/billing/")
    row = ConsumerToken.objects.get()
    assert (row.cidrs, row.instance_limit) == (["10.0.0.0/8"], 3)
    assert seats.take(row.id, "web-1", address="", now=clock.now())
    assert "1 of 3 instances" in text_of(lead, "/consumers/billing/")
    assert row.hint in text_of(lead, "/consumers/billing/")

    for odd in ("0", "-1", "three", "10001"):
        options = {"environment": "dev", "life": "30", "instance_limit": odd}
        assert lead.post("/consumers/billing/tokens/", options).status_code == 422, odd
    replaced = lead.post(f"/consumers/billing/tokens/{row.id}/rotate/", {"grace": "3600"})
    assert replaced.status_code == 201
    assert ConsumerToken.objects.count() == 2
    assert lead.post(f"/consumers/billing/tokens/{row.id}/revoke/", {"confirm": "wrong"}).status_code == 422
    row.refresh_from_db()
    assert row.revoked_at is None
    assert lead.post(f"/consumers/billing/tokens/{row.id}/revoke/", {"confirm": "billing"}).status_code == 302
    row.refresh_from_db()
    assert row.revoked_at is not None


def test_a_grant_is_given_and_taken(house: House) -> None:
    lead = client_of("lena")
    lead.post("/consumers/new/", {"slug": "billing", "team": "media"})
    data = {"service": "background-removal", "environment": "prod", "verbs": ["read", "report"]}
    assert lead.post("/consumers/billing/grants/", data).status_code == 302
    grant = Grant.objects.get()
    assert grant.verbs == ["read", "report"]
    assert client_of("vito").post(f"/consumers/billing/grants/{grant.id}/remove/").status_code == 403
    assert lead.post(f"/consumers/billing/grants/{grant.id}/remove/").status_code == 302
    assert not Grant.objects.exists()
    assert Consumer.objects.exists()


# Rotations -------------------------------------------------------------------------------------------


def test_the_plan_touches_nothing_and_the_button_starts_it(house: House) -> None:
    lead = client_of("lena")
    before = AuditEvent.objects.count()
    page = text_of(lead, KEY + "rotate/", policy="fast")
    assert "v1 → v2" in page
    assert "100 %" in page
    assert AuditEvent.objects.count() == before
    assert not Rotation.objects.exists()
    answer = lead.post(KEY + "rotate/", {"policy": "fast", "reason": "quarterly"})
    rotation = Rotation.objects.get()
    assert answer["Location"] == f"/rotations/{rotation.id}/"
    assert (rotation.policy_slug, rotation.requested_by, rotation.reason) == ("fast", "lena", "quarterly")


def test_a_second_start_answers_409_with_the_rotation_that_is_open(house: House) -> None:
    rotation = house.start()
    answer = client_of("lena").post(KEY + "rotate/", {"policy": "fast", "reason": "again"})
    assert answer.status_code == 409
    assert f"/rotations/{rotation.id}/" in answer.content.decode()
    assert Rotation.objects.count() == 1


def test_a_verb_asks_for_a_reason_and_is_carried_out(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    url = f"/rotations/{rotation.id}/pause/"
    mark = mark_of(lead, url)
    assert lead.post(url, {"mark": mark, "reason": ""}).status_code == 422
    assert lead.post(url, {"mark": mark, "reason": "release day"}).status_code == 302
    rotation.refresh_from_db()
    assert rotation.paused
    assert "release day" in text_of(lead, f"/rotations/{rotation.id}/")


def test_a_stale_page_answers_409_with_the_present_state_and_changes_nothing(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    url = f"/rotations/{rotation.id}/abort/"
    mark = mark_of(lead, url)
    pause = f"/rotations/{rotation.id}/pause/"
    lead.post(pause, {"mark": mark_of(lead, pause), "reason": "somebody else was faster"})
    answer = lead.post(url, {"mark": mark, "reason": "stop", "confirm": "background-removal/prod"})
    page = answer.content.decode()
    assert answer.status_code == 409
    assert "paused" in page
    assert "Nothing was changed" in page
    rotation.refresh_from_db()
    assert rotation.abort_asked_at is None
    assert rotation.is_open


def test_a_check_of_the_engine_between_looking_and_choosing_does_not_make_a_page_stale(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    url = f"/rotations/{rotation.id}/pause/"
    mark = mark_of(lead, url)
    Rotation.objects.filter(pk=rotation.pk).update(revision=rotation.revision + 7)
    assert lead.post(url, {"mark": mark, "reason": "release day"}).status_code == 302


def test_aborting_in_a_protected_environment_needs_the_name_typed(house: House) -> None:
    client_of("lena").post(
        "/keys/new/",
        {
            "service": "background-removal",
            "environment": "dev",
            "source": "paste",
            "secret": "dev-key-Jh3kLm9",
        },
    )
    lead, rotation = client_of("lena"), house.start()
    # A choice that has something to undo asks for the name; cancelling before that does not.
    rotation.refresh_from_db()
    url = f"/rotations/{rotation.id}/abort/"
    page = text_of(lead, url)
    assert "Cancel" in page
    from rotation import operations

    for operation in rotation.operations.all():
        operations.perform(operation.id, house.now, ring=lambda _: None)
    rotation.refresh_from_db()
    assert rotation.incoming is not None
    assert rotation.incoming.ciphertext is not None
    data = {"mark": mark_of(lead, url), "reason": "stop", "confirm": "background-removal/dev"}
    assert lead.post(url, data).status_code == 422
    rotation.refresh_from_db()
    assert rotation.is_open
    assert lead.post(url, {**data, "confirm": "background-removal/prod"}).status_code == 302
    rotation.refresh_from_db()
    assert rotation.stage == "rolled_back"


def test_a_verb_that_is_not_possible_answers_409_and_one_that_does_not_exist_404(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    assert lead.get(f"/rotations/{rotation.id}/resume/").status_code == 409
    assert lead.get(f"/rotations/{rotation.id}/explode/").status_code == 404


def test_the_live_part_answers_304_until_something_changes(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    url = f"/rotations/{rotation.id}/"
    first = lead.get(url, headers={"HX-Request": "true"})
    assert first.status_code == 200
    assert "<html" not in first.content.decode()
    again = lead.get(url, headers={"HX-Request": "true", "If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    pause = f"{url}pause/"
    lead.post(pause, {"mark": mark_of(lead, pause), "reason": "look"})
    changed = lead.get(url, headers={"HX-Request": "true", "If-None-Match": first["ETag"]})
    assert changed.status_code == 200
    assert "Paused" in changed.content.decode()


def test_the_live_part_stops_asking_when_the_rotation_is_over(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    url = f"/rotations/{rotation.id}/"
    assert 'hx-trigger="every' in text_of(lead, url)
    abort = f"{url}abort/"
    lead.post(abort, {"mark": mark_of(lead, abort), "reason": "stop"})
    from rotation import operations

    for operation in rotation.operations.all():
        operations.perform(operation.id, house.now, ring=lambda _: None)
    rotation.refresh_from_db()
    Rotation.objects.filter(pk=rotation.pk).update(check_at=None)
    assert lead.get(url, headers={"HX-Request": "true"}).status_code == 286
    assert 'hx-trigger="every' not in text_of(lead, url)


def test_an_emergency_asks_for_the_password_the_name_and_a_reason(house: House) -> None:
    lead, url = client_of("lena"), KEY + "emergency/"
    assert lead.get(url)["Location"].startswith("/accounts/reauthenticate/")
    confirm_password(lead, url)
    data = {"mode": "replace", "reason": "seen in a log", "confirm": "background-removal"}
    assert lead.post(url, data).status_code == 422
    assert lead.post(url, {**data, "confirm": "background-removal/prod"}).status_code == 302
    rotation = Rotation.objects.get()
    assert rotation.trigger == "emergency"
    assert "compromised" in text_of(lead, KEY)


# Start, health, words --------------------------------------------------------------------------------


def test_the_set_up_link_makes_one_administrator_and_is_used_up(house: House) -> None:
    token = create_setup_token(house.now).expose()
    url, data = f"/setup/{token}/", {"username": "first", "password": "correct horse battery", "again": "x"}
    data["team"] = "Platform Crew"
    assert Client().get("/setup/made-up/").status_code == 404
    # "no-referrer" would make browsers post "Origin: null", which is refused as forged.
    assert Client().get(url)["Referrer-Policy"] == "same-origin"
    assert Client().post(url, data).status_code == 422
    made = Client().post(url, {**data, "again": data["password"]})
    assert made["Location"] == "/"
    user = User.objects.get(username="first")
    assert user.organisation_role == "admin"
    assert user.check_password(data["password"])
    assert [(row.team.slug, row.role) for row in user.memberships.all()] == [("platform-crew", "lead")]
    assert Client().get(url).status_code == 404


def test_the_health_strip_says_when_the_scheduler_is_late(house: House) -> None:
    lead = client_of("lena")
    assert "never ran" in text_of(lead, "/")
    Heartbeat.objects.create(name="beat", at=clock.now())
    page = text_of(lead, "/")
    assert "never ran" not in page
    assert ">late " not in page
    Heartbeat.objects.update(at=house.now - timedelta(hours=1))
    assert ">late " in text_of(lead, "/")


def test_filters_of_the_matrix_are_in_the_address(house: House) -> None:
    lead = client_of("lena")
    assert "background-removal" in text_of(lead, "/matrix/", q="removal", team="media", provider="internal")
    for name, value in (("q", "nothing"), ("team", "shop"), ("provider", "removit")):
        page = text_of(lead, "/matrix/", **{name: value})
        assert "background-removal" not in page
        assert "No service fits" in page


def test_the_audit_search_takes_events_people_and_keys(house: House) -> None:
    admin = client_of("ada")
    for text in ("key:created", "keyturn imported", "background-removal/prod"):
        assert "background-removal/prod" in text_of(admin, "/audit/", q=text), text
    assert "No event fits" in text_of(admin, "/audit/", q="key:revealed")


def test_an_empty_vault_teaches_the_first_steps(house: House) -> None:
    page = text_of(client_of("stranger"), "/")
    assert "Add a service" in page
    assert "/v1/keys/" in page


def test_the_check_list_follows_what_is_there_and_ends_with_the_first_rotation(house: House) -> None:
    lead = client_of("lena")
    first = text_of(lead, "/")
    assert "background-removal/prod</a>" in first
    assert "/keys/background-removal/prod/connect/" in first
    deliver(house.prod, house.now)
    assert "/keys/background-removal/prod/connect/" not in text_of(lead, "/")
    assert "Rotate it" in text_of(lead, "/")
    rotation = house.start()
    assert "See your first rotation" in text_of(lead, "/")
    for stage in ("shift", "monitor", "revoke"):
        Rotation.objects.filter(pk=rotation.pk).update(stage=stage)
    Rotation.objects.filter(pk=rotation.pk).update(stage="succeeded", finished_at=house.now)
    assert "first-steps" not in text_of(lead, "/")
    assert "first-steps" not in text_of(client_of("vito"), "/")


def test_a_consumer_is_connected_in_one_step(house: House) -> None:
    lead, path = client_of("lena"), KEY + "connect/"
    assert client_of("otto").get(path).status_code == 403
    assert lead.post(path, {"life": "30"}).status_code == 422
    made = lead.post(path, {"slug": "billing", "life": "30"})
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    page = made.content.decode()
    assert re.search(r"ktc_prod_\w+", page)
    assert "snippet-curl" in page
    grant = Grant.objects.get(consumer__slug="billing")
    assert (grant.service.slug, grant.environment.slug) == ("background-removal", "prod")
    assert grant.verbs == ["read", "report"]
    again = lead.post(path, {"consumer": "billing", "slug": "other", "life": "30"})
    assert again.status_code == 422
    assert lead.post(path, {"consumer": "billing", "life": "30"}).status_code == 201
    assert ConsumerToken.objects.filter(consumer__slug="billing").count() == 2
    assert Consumer.objects.count() == 1


def test_every_audit_event_has_a_sentence() -> None:
    assert set(audit.EVENTS) - set(_SENTENCES) == set()


def test_pages_have_no_inline_style_or_script(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    for path in ("/", "/matrix/", KEY, f"/rotations/{rotation.id}/", KEY + "rotate/", "/consumers/new/"):
        page = text_of(lead, path)
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)", page), path


def test_a_missing_page_and_a_refusal_are_pages_of_ours(house: House) -> None:
    lead = client_of("lena")
    missing = lead.get("/nothing/here/")
    assert missing.status_code == 404
    assert "There is nothing here" in missing.content.decode()
    refused = client_of("vito").get("/services/new/")
    assert refused.status_code == 403
    assert "You may not do this" in refused.content.decode()


# When a key expires --------------------------------------------------------------------------------


def test_a_lead_writes_down_when_the_key_expires(house: House) -> None:
    lead, page = client_of("lena"), "/keys/background-removal/prod/"
    assert "not known" in text_of(lead, page)
    answer = lead.post(f"{page}expiry/", {"expires_at": "2999-05-01T12:00"})
    assert answer.status_code == 302
    assert KeyVersion.objects.get(key=house.prod).expires_at == datetime(2999, 5, 1, 12, tzinfo=UTC)
    assert "2999" in text_of(lead, page)
    for wrong, said in (("2001-01-01T00:00", "The expiry lies in the past."), ("soon", "not a date")):
        assert said in lead.post(f"{page}expiry/", {"expires_at": wrong}, follow=True).content.decode()
    lead.post(f"{page}expiry/", {"expires_at": ""})
    assert KeyVersion.objects.get(key=house.prod).expires_at is None
    assert client_of("otto").post(f"{page}expiry/", {"expires_at": ""}).status_code == 403
    assert client_of("stranger").post(f"{page}expiry/", {"expires_at": ""}).status_code == 404


def test_while_it_is_monitored_the_transition_to_approve_is_chosen(house: House) -> None:
    rotation = house.start()
    for stage, waiting, offered in (
        ("requested", "approval_start", ("start",)),
        ("monitor", "approval_revoke", ("revoke", "force")),
        ("monitor", "quiet", ("force",)),
    ):
        rotation.stage, rotation.waiting_code = stage, waiting
        choice = _approve(rotation)
        assert choice.transitions == offered
        form = VerbForm({"mark": "m", "reason": "r", "transition": offered[-1]}, choice=choice)
        assert form.is_valid()
        assert ("transition" in form.fields) is (len(offered) > 1)
    rotation.waiting_code = "approval_revoke"
    foreign = VerbForm({"mark": "m", "reason": "r", "transition": "start"}, choice=_approve(rotation))
    assert foreign.errors.keys() == {"transition"}
