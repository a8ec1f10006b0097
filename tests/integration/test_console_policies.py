"""Policies in the console: by form and by JSON under the rules of the API, shown before they are saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent
from rotation.console.policydrawing import drawing
from rotation.console.policyforms import PolicyForm, meant, told
from rotation.console.policywords import differences, in_words
from rotation.models import RotationPolicy
from rotation.policy import (
    CUTOVER,
    EMERGENCY,
    FAST,
    PRESETS,
    STANDARD,
    Policy,
    PolicyError,
    from_json,
    to_json,
)
from rotation.services import policies, starting
from tests.api.management.test_policies import CANNOT_BE, FULL
from tests.integration.console import House, build, client_of, fresh_client_of

pytestmark = pytest.mark.django_db
RICH = from_json(FULL)


@pytest.fixture
def house() -> House:
    return build()


def text(answer: Any) -> str:
    return str(answer.content.decode())


def add(slug: str = "mine", policy: Policy = STANDARD) -> RotationPolicy:
    return policies.create_policy(SYSTEM, slug=slug, document=to_json(policy), now=clock.now())


def look(client: Client, slug: str, **changed: object) -> Any:
    """Change these fields of the form, and ask what would change."""
    page = client.get(f"/policies/{slug}/edit/")
    data = {**page.context["form"].initial, "seen": page.context["seen"], **changed}
    return client.post(f"/policies/{slug}/edit/", {name: v for name, v in data.items() if v is not False})


def save(client: Client, slug: str, shown: Any) -> Any:
    hidden = {name: shown.context[name] for name in ("document", "seen")}
    return client.post(f"/policies/{slug}/save/", hidden)


# Words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*PRESETS.values(), RICH])
def test_the_form_says_what_the_policy_says_and_back(policy: Policy) -> None:
    form = PolicyForm(PolicyForm.values(policy))
    assert form.is_valid(), form.errors
    assert from_json(form.document()) == policy


@pytest.mark.parametrize(
    ("typed", "iso"),
    [("30 min", "PT1800S"), ("1 d 4 h", "PT100800S"), ("1d4h", "1d4h"), ("90 s", "PT90S"), ("PT10M", "PT10M"),
     ("2 w", "PT1209600S"), ("soon", "soon"), ("10", "10"), ("5 min later", "5 min later")],
)  # fmt: skip
def test_durations_are_typed_in_units_or_iso(typed: str, iso: str) -> None:
    assert meant(typed) == iso


def test_a_duration_is_told_in_full() -> None:
    assert told(timedelta(days=1, hours=2, minutes=3, seconds=4)) == "1 d 2 h 3 min 4 s"
    assert told(timedelta(0)) == "0 s"
    assert told(timedelta(seconds=1.5)) == "PT1.5S"
    assert told(None) == ""


def test_differences_are_told_in_words_and_only_those() -> None:
    wanted = replace(STANDARD, interval=None, approvals={"start": 2}, max_error_rate=0.1)
    assert [(change.label, change.was, change.now) for change in differences(STANDARD, wanted)] == [
        ("Replaced every", "90 d", "when a person starts it"),
        ("Errors allowed", "2 %", "10 %"),
        ("Approvals", "none", "2 to start"),
    ]
    assert differences(FAST, FAST) == []
    assert {line.name for line in in_words(EMERGENCY)} == set(to_json(EMERGENCY))


# One set of rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), CANNOT_BE)
def test_what_the_api_refuses_the_policy_itself_refuses_by_the_same_field(field: str, value: object) -> None:
    with pytest.raises(PolicyError) as refusal:
        from_json({field: value})
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "strange",
    [
        {"steps": [{"weight": 100, "hold": "PT1M", "note": "x"}]},
        {"windows": [{**FULL["windows"][0], "until": "x"}]},
        {"freezes": [{**FULL["freezes"][0], "until": "x"}]},
        {"freezes": [{**FULL["freezes"][0], "reason": "a\x00b"}]},
        {"freezes": [{**FULL["freezes"][0], "reason": 5}]},
        {"speed": 5},
    ],
)
def test_members_that_are_not_known_are_refused(strange: Mapping[str, Any]) -> None:
    with pytest.raises(PolicyError):
        from_json(strange)


def test_json_that_cannot_be_stays_on_the_page_with_its_reason(house: House) -> None:
    ada = client_of("ada")
    seen = ada.get("/policies/fast/edit/?json").context["seen"]
    for bad, words in (
        ("{", "not valid JSON"),
        ("[]", "A JSON object is expected"),
        ('{"monitor": "PT1H", "monitor": "PT2H"}', "stands twice"),
        ('{"steps": []}', "steps: Use a list of 1 to 20 steps."),
        ('{"windows": [{"days": ["mon"], "from": "08:00", "to": "09:00", "zone": "Europe"}]}', "time zone"),
        ('{"freezes": [{"from": 0, "to": "\\ud800"}]}', "freezes:"),
        ("[" * 40, "nested deeper"),
    ):
        answer = ada.post("/policies/fast/edit/", {"json": bad, "seen": seen})
        assert answer.status_code == 422, bad
        assert words in text(answer), bad
    assert RotationPolicy.objects.get(slug="fast").value == FAST


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("steps", "5 for 10 min\n100 %", "Line 2 is not written like: 5 % for 10 min"),
        ("steps", "50 % for 1 min\n25 % for 1 min\n100 % for 1 min", "Weights must rise"),
        ("steps", "", "This field is required."),
        ("monitor", "a while", "Use an ISO 8601 duration"),
        ("deadline", "0 s", "Use at least one second"),
        ("min_samples", "many", "Enter a whole number."),
        ("max_error_rate", "nan", "Enter a number."),
        ("approvals_start", "6", "Use a whole number from 0 to 5."),
        ("exposure_revealed", "soon", "Use an ISO 8601 duration"),
        ("windows", "sunday 08:00 to 09:00 Europe/Berlin", "Days are some of"),
        ("freezes", "Christmas", "Line 1 is not written like"),
        ("canaries", "We-b", "Use names of consumers"),
    ],
)
def test_the_form_puts_a_message_at_its_field(house: House, field: str, value: str, words: str) -> None:
    answer = look(client_of("ada"), "fast", **{field: value})
    assert answer.status_code == 422
    assert any(words in error for error in answer.context["form"].errors[field]), answer.context[
        "form"
    ].errors


# Writing --------------------------------------------------------------------------------------------


def test_a_new_one_by_form_starts_from_a_preset(house: House) -> None:
    ada = client_of("ada")
    page = ada.get("/policies/new/?from=fast")
    assert page.context["form"].initial["monitor"] == "15 min"
    answer = ada.post("/policies/new/", {**PolicyForm.values(FAST), "slug": "mine", "monitor": "20 min"})
    assert answer["Location"] == "/policies/mine/"
    assert RotationPolicy.objects.get(slug="mine").value == replace(FAST, monitor=timedelta(minutes=20))
    again = ada.post("/policies/new/", {**PolicyForm.values(FAST), "slug": "mine"})
    assert again.status_code == 422
    assert "exists already" in text(again)


def test_a_new_one_by_json_is_what_the_api_would_make(house: House) -> None:
    answer = client_of("ada").post("/policies/new/", {"slug": "rich", "json": json.dumps(FULL)})
    assert answer.status_code == 302
    assert RotationPolicy.objects.get(slug="rich").value == RICH


def test_a_change_is_shown_in_words_with_whom_it_concerns_and_only_then_saved(house: House) -> None:
    add()
    row = RotationPolicy.objects.get(slug="mine")
    policies.assign_policy(SYSTEM, house.prod, row, now=house.now)
    rotation = starting.start(SYSTEM, house.prod, now=house.now, ring=lambda _: None)
    ada = fresh_client_of("ada")
    shown = look(ada, "mine", monitor="36 h")
    assert "<td>1 d 12 h</td>" in text(shown)
    assert "1 key follows it" in text(shown)
    assert "1 rotation under it runs now and keeps what it started with" in text(shown)
    assert "you confirm that it is you" in text(shown)
    assert RotationPolicy.objects.get(slug="mine").value == STANDARD
    assert save(ada, "mine", shown).status_code == 302
    assert RotationPolicy.objects.get(slug="mine").value.monitor == timedelta(hours=36)
    rotation.refresh_from_db()
    assert from_json(rotation.policy).monitor == STANDARD.monitor
    assert AuditEvent.objects.get(name="policy:changed").details["fields"] == ["monitor"]


def test_by_json_too_and_nothing_new_is_nothing(house: House) -> None:
    add()
    ada = client_of("ada")
    seen = ada.get("/policies/mine/edit/?json").context["seen"]
    same = ada.post("/policies/mine/edit/", {"json": json.dumps(to_json(STANDARD)), "seen": seen})
    assert same["Location"] == "/policies/mine/"
    shown = ada.post("/policies/mine/edit/", {"json": '{"quiet": "PT3H"}', "seen": seen})
    assert save(ada, "mine", shown).status_code == 302
    assert RotationPolicy.objects.get(slug="mine").value.quiet == timedelta(hours=3)


def test_the_password_comes_first_where_a_protected_environment_follows_it(house: House) -> None:
    ada = client_of("ada")  # prod follows standard
    shown = look(ada, "standard", quiet="3 h")
    assert "/reauthenticate/" in save(ada, "standard", shown)["Location"]
    assert RotationPolicy.objects.get(slug="standard").value.quiet == STANDARD.quiet
    free = look(ada, "fast", quiet="3 h")
    assert save(ada, "fast", free)["Location"] == "/policies/fast/"


def test_a_key_that_has_not_chosen_protects_its_default(house: House) -> None:
    house.prod.schedule.delete()
    assert policies.guards_protected(RotationPolicy.objects.get(slug="standard"))
    assert not policies.guards_protected(RotationPolicy.objects.get(slug="fast"))


def test_who_saves_after_somebody_else_sees_what_it_says_now(house: House) -> None:
    row = add()
    ada = client_of("ada")
    shown = look(ada, "mine", quiet="3 h")
    policies.change_policy(SYSTEM, row, document={"monitor": "PT5H"}, now=house.now)
    answer = save(ada, "mine", shown)
    assert answer.status_code == 409
    assert "<dd>5 h</dd>" in text(answer)
    stale = ada.post("/policies/mine/edit/", {"json": "{}", "seen": shown.context["seen"]})
    assert stale.status_code == 409
    assert RotationPolicy.objects.get(slug="mine").value.quiet == STANDARD.quiet


@pytest.mark.parametrize("document", ["", "{", "[]", '{"steps": []}', '{"speed": 1}', '{"\\ud800": 1}'])
def test_a_made_up_save_is_refused_without_a_change(house: House, document: str) -> None:
    row, ada = add(), client_of("ada")
    seen = policies.mark_of(row)
    assert ada.post("/policies/mine/save/", {"document": document, "seen": seen}).status_code == 422
    assert ada.post("/policies/mine/save/", {"document": '{"quiet": "PT1S"}'}).status_code == 409
    assert RotationPolicy.objects.get(slug="mine").value == STANDARD


# Removing -------------------------------------------------------------------------------------------


def test_one_that_is_followed_stays_and_says_by_what(house: House) -> None:
    row, ada = add(), client_of("ada")
    policies.assign_policy(SYSTEM, house.prod, row, now=house.now)
    answer = ada.post("/policies/mine/remove/", {"confirm": "mine"})
    assert answer.status_code == 409
    assert "It is followed by background-removal/prod. Move them first." in text(answer)
    policies.assign_policy(SYSTEM, house.prod, RotationPolicy.objects.get(slug="fast"), now=house.now)
    assert ada.post("/policies/mine/remove/", {"confirm": "min"}).status_code == 422
    assert ada.post("/policies/mine/remove/", {"confirm": "mine"}).status_code == 302
    assert not RotationPolicy.objects.filter(slug="mine").exists()
    assert AuditEvent.objects.get(name="policy:removed").details == {"policy": "mine"}


def test_a_preset_stays(house: House) -> None:
    assert client_of("ada").post("/policies/emergency/remove/", {"confirm": "emergency"}).status_code == 409
    assert RotationPolicy.objects.filter(slug="emergency").exists()


# Access ---------------------------------------------------------------------------------------------

WRITING = ("/policies/new/", "/policies/mine/edit/", "/policies/mine/remove/")


@pytest.mark.parametrize("username", ["vito", "otto", "lena", "stranger"])
def test_everybody_reads_and_only_administrators_write(house: House, username: str) -> None:
    add()
    client = client_of(username)
    page = text(client.get("/policies/mine/"))
    assert "Change it" not in page
    assert "Add a policy" not in text(client.get("/policies/"))
    for path in (*WRITING, "/policies/mine/save/"):
        assert client.get(path).status_code in (403, 405)
        assert client.post(path, {"confirm": "mine", "document": "{}"}).status_code == 403
    assert RotationPolicy.objects.get(slug="mine").value == STANDARD


def test_what_is_not_there_is_404_and_the_signed_out_go_to_the_login(house: House) -> None:
    for path in ("/policies/none/edit/", "/policies/none/remove/"):
        assert client_of("ada").get(path).status_code == 404
    for path in WRITING:
        assert Client().get(path)["Location"].startswith("/accounts/login/?next=/")


def test_a_cutover_is_drawn_with_its_gap() -> None:
    drawn = drawing(CUTOVER)
    assert [column.name for column in drawn.columns] == ["old key", "no key", "new key"]
    assert "In between there is none" in drawn.summary
    assert "In between" not in drawing(STANDARD).summary
