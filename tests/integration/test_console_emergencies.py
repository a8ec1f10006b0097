"""The pages of bulk emergencies and of the report of a leak."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from keyvault import clock
from keyvault.models import KeyVersion
from rotation.models import EmergencyRun, Rotation
from rotation.services import runs
from tests.integration.console import SECRET, House, build, client_of, confirm_password

pytestmark = pytest.mark.django_db

PATH = "/emergency/"
CHOICE = PATH + "?scope=team&name=media&mode=replace"


@pytest.fixture
def house() -> House:
    return build()


def plan_of(page: str) -> str:
    found = re.search(r'name="plan" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def started(lead: Client) -> str:
    """Start the emergency of the team; returns the address of its page."""
    confirm_password(lead, CHOICE)
    plan = plan_of(lead.get(CHOICE).content.decode())
    answer = lead.post(CHOICE, {"plan": plan, "count": "1", "reason": "seen in a log"})
    assert answer.status_code == 302, answer.content.decode()
    return str(answer["Location"])


def test_a_lead_chooses_sees_the_plan_and_starts_it(house: House) -> None:
    lead = client_of("lena")
    assert lead.get(PATH).status_code == 200
    assert lead.get(CHOICE)["Location"].startswith("/accounts/reauthenticate/")
    confirm_password(lead, CHOICE)
    page = lead.get(CHOICE).content.decode()
    assert "background-removal" in page
    assert "1 would be started" in page
    data = {"plan": plan_of(page), "count": "2", "reason": "seen in a log"}
    assert lead.post(CHOICE, data).status_code == 422
    assert lead.post(CHOICE, {**data, "plan": "0" * 64, "count": "1"}).status_code == 422
    assert not EmergencyRun.objects.exists()
    url = started(lead)
    runs.carry_on(clock.now(), ring=lambda _: None)
    shown = lead.get(url).content.decode()
    assert "0 of 1 done" in shown
    assert "running" in shown
    assert lead.get(url, headers={"HX-Request": "true"}).status_code == 200


def test_stop_and_resume(house: House) -> None:
    lead = client_of("lena")
    url = started(lead)
    assert lead.post(f"{url}stop/", {"reason": "wait"}).status_code == 302
    runs.carry_on(clock.now(), ring=lambda _: None)
    assert not Rotation.objects.exists()
    assert lead.post(f"{url}resume/", {"reason": "on"}).status_code == 302
    runs.carry_on(clock.now(), ring=lambda _: None)
    assert Rotation.objects.get().trigger == "emergency"
    assert lead.post(f"{url}explode/", {"reason": "x"}).status_code == 404


def test_strangers_and_viewers(house: House) -> None:
    url = started(client_of("lena"))
    stranger, viewer = client_of("stranger"), client_of("vito")
    assert stranger.get(url).status_code == 404
    assert stranger.post(f"{url}stop/", {"reason": "x"}).status_code == 404
    assert "background-removal" not in stranger.get(PATH).content.decode()
    assert viewer.get(url).status_code == 200
    assert viewer.post(f"{url}stop/", {"reason": "x"}).status_code == 403
    assert Client().get(PATH).status_code == 302


def test_an_unknown_name_is_said_at_its_field(house: House) -> None:
    lead = client_of("lena")
    where = PATH + "?scope=team&name=shop&mode=kill"
    confirm_password(lead, where)
    answer = lead.get(where)
    assert answer.status_code == 422
    assert "There is no such team." in answer.content.decode()


def test_a_viewer_reports_a_leak_and_a_lead_confirms_it(house: House) -> None:
    viewer, lead = client_of("vito"), client_of("lena")
    answer = viewer.post("/leaks/new/", {"secret": SECRET, "reason": "in a chat"})
    assert answer.status_code == 302
    url = str(answer["Location"])
    assert KeyVersion.objects.get(number=1).compromised_at is not None
    confirm_password(lead, f"{url}confirm/")
    plan = plan_of(lead.get(f"{url}confirm/").content.decode())
    data = {"plan": plan, "count": "1", "reason": "yes"}
    assert lead.post(f"{url}confirm/", {**data, "count": "5"}).status_code == 422
    assert lead.post(f"{url}confirm/", data).status_code == 302
    runs.carry_on(clock.now(), ring=lambda _: None)
    assert Rotation.objects.get().key == house.prod


def test_the_form_is_no_oracle_and_keeps_nothing(house: House) -> None:
    stranger = client_of("stranger")
    pages = []
    for secret in (SECRET, "made-up-unknown-Yq81mPq04xTt"):
        answer = stranger.post("/leaks/new/", {"secret": secret, "reason": "in a chat"})
        assert answer["Location"] == "/leaks/new/"
        page = stranger.get("/leaks/new/").content.decode()
        assert secret not in page
        pages.append(re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", page))
    assert pages[0] == pages[1]
    spaced = "made up secret with blanks 81"
    refused = stranger.post("/leaks/new/", {"secret": spaced, "reason": "x"})
    assert refused.status_code == 422
    assert spaced not in refused.content.decode()
