"""/v1/teams/ and /v1/teams/{team}/members/"""

from __future__ import annotations

from keyvault.models import AuditEvent, Membership, Team
from tests.api.management.world import World, problem


class TestTeams200:
    def test_a_member_sees_the_own_teams_only(self, world: World) -> None:
        answer = world.viewer.get("/v1/teams/")
        assert answer.status_code == 200
        assert [item["slug"] for item in answer.json()["items"]] == ["imaging"]
        assert answer.json()["next_cursor"] is None

    def test_auditors_and_administrators_see_all(self, world: World) -> None:
        for person in (world.auditor, world.admin):
            items = person.get("/v1/teams/").json()["items"]
            assert [item["slug"] for item in items] == ["billing", "imaging"]

    def test_one_team(self, world: World) -> None:
        shown = world.viewer.get("/v1/teams/imaging/").json()
        assert shown["slug"] == "imaging"
        assert shown["name"] == "Imaging"
        assert shown["created_at"].endswith("Z")

    def test_members_are_listed_by_name(self, world: World) -> None:
        items = world.viewer.get("/v1/teams/imaging/members/").json()["items"]
        assert [(item["user"], item["role"]) for item in items] == [
            ("lead", "lead"),
            ("operator", "operator"),
            ("viewer", "viewer"),
        ]


class TestTeams201:
    def test_an_administrator_creates_a_team(self, world: World) -> None:
        answer = world.admin.post("/v1/teams/", {"slug": "video", "name": "Vidéo & film"})
        assert answer.status_code == 201
        assert answer.json()["name"] == "Vidéo & film"
        assert Team.objects.filter(slug="video").exists()
        assert AuditEvent.objects.filter(name="team:created", actor="admin").exists()

    def test_the_name_defaults_to_the_slug(self, world: World) -> None:
        assert world.admin.post("/v1/teams/", {"slug": "video"}).json()["name"] == "video"

    def test_a_lead_adds_a_member_and_changes_the_role(self, world: World) -> None:
        path = "/v1/teams/imaging/members/"
        assert world.lead.post(path, {"user": "stranger", "role": "viewer"}).status_code == 201
        answer = world.lead.post(path, {"user": "stranger", "role": "operator"})
        assert answer.json()["role"] == "operator"
        assert Membership.objects.get(team=world.imaging, user=world.stranger.user).role == "operator"


class TestMembers204:
    def test_a_lead_removes_a_member(self, world: World) -> None:
        answer = world.lead.delete("/v1/teams/imaging/members/viewer/")
        assert answer.status_code == 204
        assert answer.content == b""
        assert world.viewer.get("/v1/teams/imaging/").status_code == 404


class TestTeams400:
    def test_a_taken_slug(self, world: World) -> None:
        error = problem(world.admin.post("/v1/teams/", {"slug": "imaging"}))
        assert error["code"] == "validation_error"
        assert "slug" in error["fields"]

    def test_an_unknown_person_and_an_unknown_role(self, world: World) -> None:
        path = "/v1/teams/imaging/members/"
        assert "user" in problem(world.lead.post(path, {"user": "nobody", "role": "viewer"}))["fields"]
        assert "role" in problem(world.lead.post(path, {"user": "viewer", "role": "owner"}))["fields"]


class TestTeams403:
    def test_only_administrators_create_teams(self, world: World) -> None:
        for person in (world.lead, world.operator, world.viewer, world.auditor):
            assert problem(person.post("/v1/teams/", {"slug": "mine"}))["code"] == "permission_denied"

    def test_only_leads_set_members(self, world: World) -> None:
        for person in (world.operator, world.viewer, world.auditor):
            answer = person.post("/v1/teams/imaging/members/", {"user": "stranger", "role": "lead"})
            assert answer.status_code == 403
            assert person.delete("/v1/teams/imaging/members/lead/").status_code == 403


class TestTeams404:
    def test_a_strangers_team_and_an_unknown_one_look_the_same(self, world: World) -> None:
        theirs = problem(world.stranger.get("/v1/teams/imaging/"))
        unknown = problem(world.stranger.get("/v1/teams/nothing/"))
        assert {**theirs, "request_id": ""} == {**unknown, "request_id": ""}

    def test_strangers_touch_no_members(self, world: World) -> None:
        path = "/v1/teams/imaging/members/"
        assert world.stranger.get(path).status_code == 404
        assert world.stranger.post(path, {"user": "stranger", "role": "lead"}).status_code == 404
        assert world.stranger.delete(f"{path}viewer/").status_code == 404

    def test_somebody_who_is_no_member(self, world: World) -> None:
        assert world.lead.delete("/v1/teams/imaging/members/stranger/").status_code == 404
