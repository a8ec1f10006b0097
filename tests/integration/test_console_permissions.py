"""Who sees what and may do what: strangers get 404, viewers no buttons and 403, the signed-out the login."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from keyvault.models import AuditEvent, Team
from tests.browser.furniture import plain_key
from tests.integration.console import House, add_service, build, client_of

pytestmark = pytest.mark.django_db

KEY = "/keys/background-removal/prod/"
PAGES = (
    "/",
    "/matrix/",
    KEY,
    "/rotations/",
    "/consumers/",
    "/channels/",
    "/policies/",
    "/policies/standard/",
    "/audit/",
)
LEADS_PAGES = ("/services/new/", "/keys/new/", "/consumers/new/", KEY + "rotate/")


@pytest.fixture
def house() -> House:
    return build()


@pytest.mark.parametrize("path", [*PAGES, *LEADS_PAGES, KEY + "reveal/", KEY + "emergency/", "/teams/new/"])
def test_a_signed_out_person_is_sent_to_the_login(house: House, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/accounts/login/?next=/")


def test_a_signed_out_fragment_asks_the_browser_to_load_the_page_again(house: House) -> None:
    answer = Client().get("/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Refresh"], answer.content) == (204, "true", b"")


@pytest.mark.parametrize("path", [*PAGES, *LEADS_PAGES])
def test_a_lead_opens_every_page(house: House, path: str) -> None:
    assert client_of("lena").get(path).status_code == 200


@pytest.mark.parametrize("path", [KEY, KEY + "reveal/", KEY + "rotate/", KEY + "emergency/"])
def test_a_stranger_gets_404_as_for_a_key_that_does_not_exist(house: House, path: str) -> None:
    stranger = client_of("stranger")
    theirs, nobodys = stranger.get(path), stranger.get(path.replace("removal", "nothing"))
    assert theirs.status_code == nobodys.status_code == 404
    assert "background-removal" not in theirs.content.decode()


def test_a_stranger_gets_404_for_a_rotation_and_each_of_its_verbs(house: House) -> None:
    rotation, stranger = house.start(), client_of("stranger")
    for verb in ("", "evidence/", "pause/", "abort/", "supply/", "force-revoke/"):
        url = reverse("console-rotation", args=[rotation.id]) + verb
        assert stranger.get(url).status_code == 404
        assert stranger.post(url, {"reason": "x", "mark": "x"}).status_code in (404, 405)


def test_lists_hold_nothing_of_other_teams(house: House) -> None:
    house.start()
    stranger = client_of("stranger")
    plain_key(
        add_service(Team.objects.get(slug="shop"), "theirs", house.now), "dev", "Qm29ZxLp", now=house.now
    )
    for path in ("/", "/matrix/", "/rotations/", "/consumers/", "/audit/"):
        assert "background-removal" not in stranger.get(path).content.decode(), path


def test_a_viewer_sees_the_pages_without_buttons(house: House) -> None:
    rotation, viewer = house.start(), client_of("vito")
    key_page = viewer.get(KEY).content.decode()
    assert "background-removal" in key_page
    for word in ("Reveal</a>", "It leaked", 'rotate/"', "never-shown", "Change the policy"):
        assert word not in key_page
    page = viewer.get(reverse("console-rotation", args=[rotation.id])).content.decode()
    assert "verb-" not in page
    assert "Add a service" not in viewer.get("/matrix/").content.decode()


@pytest.mark.parametrize(
    "path",
    [KEY + "reveal/", KEY + "rotate/", KEY + "emergency/", "/services/new/", "/keys/new/", "/teams/new/"],
)
def test_the_server_refuses_a_viewer_too(house: House, path: str) -> None:
    viewer = client_of("vito")
    assert viewer.get(path).status_code == 403
    answer = viewer.post(path, {"reason": "because"})
    assert answer.status_code == 403
    page = answer.content.decode()
    assert "permission_denied" in page
    assert "needs the role" in page or "administrator" in page


def test_the_server_refuses_a_viewers_verbs(house: House) -> None:
    rotation, viewer = house.start(), client_of("vito")
    for verb in ("pause", "abort", "supply"):
        url = f"/rotations/{rotation.id}/{verb}/"
        assert viewer.post(url, {"reason": "no", "mark": "x"}).status_code == 403
    rotation.refresh_from_db()
    assert not rotation.paused
    assert rotation.abort_asked_at is None


def test_an_operator_rotates_but_does_not_reveal(house: House) -> None:
    operator = client_of("otto")
    assert operator.get(KEY + "rotate/").status_code == 200
    assert operator.get(KEY + "reveal/").status_code == 403
    page = operator.get(KEY).content.decode()
    assert "Rotate" in page
    assert "Leads of Media can reveal it" in page


def test_only_an_administrator_creates_teams(house: House) -> None:
    assert client_of("lena").post("/teams/new/", {"slug": "new", "name": "New"}).status_code == 403
    assert client_of("ada").post("/teams/new/", {"slug": "new", "name": "New"}).status_code == 302
    assert Team.objects.filter(slug="new").exists()


def test_events_without_a_team_are_for_those_who_see_everything(house: House) -> None:
    AuditEvent.objects.filter(name="team:created")
    client_of("ada").post("/teams/new/", {"slug": "secret-team", "name": "Secret team"})
    assert "secret-team" in client_of("ada").get("/audit/").content.decode()
    assert "secret-team" not in client_of("lena").get("/audit/").content.decode()
