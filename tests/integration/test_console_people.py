"""Teams, people and one's own page: who may do what, what is shown once, and who stays when others go."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client

from keyvault import clock
from keyvault.actors import actor_for
from keyvault.domain import OrganisationRole, Role
from keyvault.models import AuditEvent, Membership, SetupLink, Team, User, UserToken
from keyvault.services import people
from tests.browser.furniture import PASSWORD
from tests.integration.console import House, build, client_of
from tests.integration.signing_in import confirm, is_in, sign_in

pytestmark = pytest.mark.django_db
TEAM = "/team/media/"
NEW = "another long password"


@pytest.fixture(autouse=True)
def house() -> House:
    return build()


def events(*names: str) -> list[str]:
    return [f"{e.actor} {e.name}" for e in AuditEvent.objects.filter(name__in=names).order_by("sequence")]


def member(username: str) -> Membership:
    return Membership.objects.get(team__slug="media", user__username=username)


# Teams --------------------------------------------------------------------------------------------


def test_a_lead_adds_changes_and_removes_members(house: House) -> None:
    lena = client_of("lena")
    assert lena.post(TEAM + "members/", {"user": "stranger", "role": "viewer"})["Location"] == TEAM
    assert lena.post(f"{TEAM}members/{member('stranger').id}/role/", {"role": "operator"}).status_code == 302
    assert member("stranger").role == "operator"
    assert "stranger" in lena.get(f"{TEAM}members/{member('stranger').id}/remove/").content.decode()
    lena.post(f"{TEAM}members/{member('stranger').id}/remove/")
    assert not Membership.objects.filter(team=house.team, user__username="stranger").exists()
    assert events("team:member:set", "team:member:removed")[-3:] == [
        "lena team:member:set",
        "lena team:member:set",
        "lena team:member:removed",
    ]


@pytest.mark.parametrize("who", ["vito", "otto"])
def test_others_look_and_change_nothing(house: House, who: str) -> None:
    client, lena = client_of(who), member("lena")
    page = client.get(TEAM).content.decode()
    assert "lena" in page
    assert "/members/" not in page
    for path in ("members/", f"members/{lena.id}/role/", f"members/{lena.id}/remove/"):
        assert client.post(TEAM + path, {"user": "stranger", "role": "lead"}).status_code == 403
    assert member("lena").role == "lead"


def test_a_stranger_and_a_team_that_is_not_there_look_the_same(house: House) -> None:
    stranger, lena = client_of("stranger"), member("lena")
    for path in ("/team/media/", "/team/nothing/"):
        assert stranger.get(path).status_code == 404
        assert stranger.post(f"{path}members/", {"user": "vito", "role": "lead"}).status_code == 404
        assert stranger.post(f"{path}members/{lena.id}/remove/").status_code == 404
    assert "Media" not in stranger.get("/teams/").content.decode()
    assert client_of("lena").post(f"/team/shop/members/{lena.id}/remove/").status_code == 404


def test_the_last_lead_stays_until_there_is_another(house: House) -> None:
    lena = client_of("lena")
    for path, sent in (("remove/", {}), ("role/", {"role": "viewer"})):
        page = lena.post(f"{TEAM}members/{member('lena').id}/{path}", sent, follow=True)
        assert "You are the last lead" in page.content.decode()
        assert member("lena").role == "lead"
    people.set_member(
        actor_for(User.objects.get(username="ada")),
        house.team, username="otto", role=Role.LEAD, now=house.now,
    )  # fmt: skip
    assert lena.post(f"{TEAM}members/{member('lena').id}/remove/")["Location"] == "/teams/"
    assert lena.get(TEAM).status_code == 404


def test_an_administrator_may_leave_a_team_without_a_lead(house: House) -> None:
    client_of("ada").post(f"{TEAM}members/{member('lena').id}/remove/")
    assert not Membership.objects.filter(team=house.team, role="lead").exists()


# Set-up links -------------------------------------------------------------------------------------


def invite(client: Client, username: str, role: str = "operator") -> str:
    page = client.post(TEAM + "members/", {"user": username, "role": role, "link": "1"})
    assert page.status_code == 201, page.content
    assert page["Cache-Control"] == "no-store"
    found = re.search(r"http://testserver(/join/[A-Za-z0-9_-]+/)", page.content.decode())
    assert found is not None
    return found[1]


def test_somebody_new_gets_in_by_a_link_that_works_once(house: House) -> None:
    lena = client_of("lena")
    unknown = lena.post(TEAM + "members/", {"user": "nora@example.org", "role": "operator"})
    assert "There is nobody of this name yet" in unknown.content.decode()
    path = invite(lena, "nora@example.org")
    assert path.split("/")[2] not in lena.get(TEAM).content.decode()
    nora = Client()
    assert nora.get(path)["Referrer-Policy"] == "strict-origin"
    for first, second in (("short", "short"), (NEW, NEW + "!")):
        assert nora.post(path, {"password": first, "again": second}).status_code == 422
    assert nora.post(path, {"password": NEW, "again": NEW})["Location"] == "/accounts/login/"
    assert nora.get(path).status_code == nora.post(path, {"password": NEW, "again": NEW}).status_code == 404
    assert member("nora@example.org").role == "operator"
    assert is_in(sign_in("nora@example.org", NEW))
    assert events("user:link:created", "team:member:set", "user:link:used")[-3:] == [
        "lena user:link:created",
        "lena team:member:set",
        "nora@example.org user:link:used",
    ]


def test_a_link_that_expired_was_withdrawn_replaced_or_changed_is_not_there(house: House) -> None:
    lena = client_of("lena")
    older, path = invite(lena, "nora"), invite(lena, "nora")
    assert Client().get(older).status_code == 404
    SetupLink.objects.update(role="lead")
    assert Client().get(path).status_code == 404
    SetupLink.objects.update(role="operator")
    assert Client().get(path).status_code == 200
    SetupLink.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    assert Client().get(path).status_code == 404
    path = invite(lena, "nora")
    link = SetupLink.objects.get()
    assert client_of("vito").post(f"{TEAM}links/{link.id}/withdraw/").status_code == 403
    assert lena.post(f"{TEAM}links/{link.id}/withdraw/").status_code == 302
    assert Client().get(path).status_code == 404
    for taken in ("vito", "white space"):
        sent = {"user": taken, "role": "viewer", "link": "1"}
        assert lena.post(TEAM + "members/", sent).status_code == 422


# The organisation ---------------------------------------------------------------------------------


def person_path(username: str) -> str:
    return f"/people/{User.objects.get(username=username).pk}/"


@pytest.mark.parametrize("verb", ["", "role/", "password/", "second-factor/", "shut-out/", "let-in/"])
def test_only_administrators_see_and_change_people(house: House, verb: str) -> None:
    lena, path = client_of("lena"), person_path("vito") + verb
    assert (lena.post(path, {"role": "admin"}) if verb else lena.get(path)).status_code == 403
    assert lena.get("/people/").status_code == 403
    vito = User.objects.get(username="vito")
    assert (vito.organisation_role, vito.is_active) == ("", True)


def test_an_administrator_gives_roles_after_confirming(house: House) -> None:
    ada = client_of("ada")
    sent = ada.post(person_path("vito") + "role/", {"role": "auditor"})
    assert sent["Location"].startswith("/accounts/reauthenticate/")
    assert User.objects.get(username="vito").organisation_role == ""
    confirm(ada)
    ada.post(person_path("vito") + "role/", {"role": "auditor"})
    assert User.objects.get(username="vito").organisation_role == "auditor"
    page = ada.post(person_path("ada") + "role/", {"role": ""}, follow=True).content.decode()
    assert "This is the last administrator" in page
    ada.post(person_path("lena") + "role/", {"role": "admin"})
    ada.post(person_path("ada") + "role/", {"role": ""})
    left = User.objects.get(username="ada")
    assert (left.organisation_role, left.is_staff, left.is_superuser) == ("", False, False)
    assert ada.get("/people/").status_code == 403


def test_somebody_who_is_shut_out_is_out_everywhere_at_once(house: House) -> None:
    ada, vito = client_of("ada"), client_of("vito")
    user = User.objects.get(username="vito")
    expires = clock.now() + timedelta(hours=1)
    _, token = people.create_user_token(user, expires_at=expires, now=clock.now())
    ada.post(person_path("vito") + "shut-out/")
    assert not is_in(vito)
    assert people.user_for_token(token.expose(), now=clock.now()) is None
    ada.post(person_path("vito") + "let-in/")
    assert not is_in(vito)
    assert is_in(client_of("vito"))
    page = ada.post(person_path("ada") + "shut-out/", follow=True).content.decode()
    assert "Another administrator has to do this" in page


def test_a_link_for_a_lost_password_ends_the_sessions_and_gives_no_role(house: House) -> None:
    ada, vito = client_of("ada"), client_of("vito")
    confirm(ada)
    page = ada.post(person_path("vito") + "password/").content.decode()
    found = re.search(r"(/join/[A-Za-z0-9_-]+/)", page)
    assert found is not None
    Client().post(found[1], {"password": NEW, "again": NEW})
    assert not is_in(vito)
    assert is_in(sign_in("vito", NEW))
    assert member("vito").role == "viewer"


# One's own page -----------------------------------------------------------------------------------


def test_the_profile_is_changed_and_recorded(house: House) -> None:
    lena = client_of("lena")
    sent = {"name": "Lena <b>Lind", "email": "lena@example.org", "time_zone": "Europe/Helsinki"}
    assert lena.post("/profile/", sent).status_code == 302
    page = lena.get("/profile/").content.decode()
    assert 'data-zone="Europe/Helsinki"' in page
    assert "Lena &lt;b&gt;Lind" in page
    assert AuditEvent.objects.get(name="user:profile:changed").details["fields"] == ["name", "time_zone"]
    assert lena.post("/profile/", {**sent, "time_zone": "Mars/Olympus"}).status_code == 422
    lena.post("/profile/", sent)
    assert AuditEvent.objects.filter(name="user:profile:changed").count() == 1


def test_a_token_is_shown_once_after_confirming_and_revoked(house: House) -> None:
    lena = client_of("lena")
    assert lena.post("/profile/tokens/", {"life": "8"})["Location"].startswith("/accounts/reauthenticate/")
    confirm(lena)
    page = lena.post("/profile/tokens/", {"life": "8"})
    assert (page.status_code, page["Cache-Control"]) == (201, "no-store")
    found = re.search(r"ktu_[A-Za-z0-9]+", page.content.decode())
    assert found is not None
    assert found[0] not in lena.get("/profile/").content.decode()
    assert Client().get("/v1/teams/", headers={"X-API-Key": found[0]}).status_code == 200
    row = UserToken.objects.get()
    assert client_of("vito").post(f"/profile/tokens/{row.id}/revoke/").status_code == 404
    lena.post(f"/profile/tokens/{row.id}/revoke/")
    assert Client().get("/v1/teams/", headers={"X-API-Key": found[0]}).status_code == 401
    assert events("user:token:created", "user:token:revoked") == [
        "lena user:token:created",
        "lena user:token:revoked",
    ]


def test_sessions_are_listed_and_ended_from_afar(house: House) -> None:
    here, there, third, other = sign_in("lena"), sign_in("lena"), sign_in("lena"), sign_in("vito")
    listed = [shown["row"] for shown in here.get("/profile/").context["sessions"]]
    assert len(listed) == 3
    keys = [row.session_key for row in listed]
    assert not any(key in here.get("/profile/").content.decode() for key in keys)
    of_there = next(row for row in listed if row.session_key == there.session.session_key)
    of_vito = other.get("/profile/").context["sessions"][0]["row"]
    here.post("/profile/sessions/end/", {"session": str(of_vito.pk)})
    here.post("/profile/sessions/end/", {"session": str(of_there.pk)})
    assert [is_in(client) for client in (here, there, third, other)] == [True, False, True, True]
    here.post("/profile/sessions/end/")
    assert [is_in(client) for client in (here, third, other)] == [True, False, True]
    ended = AuditEvent.objects.filter(name="user:sessions:ended").order_by("sequence")
    assert [event.details["sessions"] for event in ended] == [1, 1]


def test_a_new_password_ends_every_session(house: House) -> None:
    here, there = sign_in("lena"), client_of("lena")
    sent = {"oldpassword": PASSWORD, "password1": NEW, "password2": NEW}
    assert here.post("/accounts/password/change/", sent).status_code == 302
    assert not is_in(here)
    assert not is_in(there)


def test_names_of_mail_addresses_are_removed_by_the_api_too(house: House) -> None:
    people.create_person("nora+x@example.org", NEW, role=OrganisationRole.NONE)
    lena = actor_for(User.objects.get(username="lena"))
    team = Team.objects.get(slug="media")
    people.set_member(lena, team, username="nora+x@example.org", role=Role.VIEWER, now=house.now)
    user, expires = User.objects.get(username="lena"), clock.now() + timedelta(hours=1)
    _, token = people.create_user_token(user, expires_at=expires, now=clock.now())
    headers = {"X-API-Key": token.expose()}
    path = "/v1/teams/media/members/nora+x@example.org/"
    assert Client().delete(path, headers=headers).status_code == 204
    last = Client().delete("/v1/teams/media/members/lena/", headers=headers)
    assert (last.status_code, last.json()["error"]["code"]) == (400, "validation_error")
