"""/v1/services/"""

from __future__ import annotations

from keyvault.models import Service
from tests.api.management.world import World, problem, unique


def body(**changes: object) -> dict[str, object]:
    return {
        "slug": unique("s"),
        "team": "imaging",
        "provider": "removit",
        "description": "Cut-outs",
        **changes,
    }


class TestServices200:
    def test_each_sees_the_own(self, world: World) -> None:
        mine, theirs = world.service(), world.service(team=world.billing)
        assert [item["slug"] for item in world.viewer.get("/v1/services/").json()["items"]] == [mine.slug]
        assert [item["slug"] for item in world.stranger.get("/v1/services/").json()["items"]] == [theirs.slug]
        assert len(world.auditor.get("/v1/services/").json()["items"]) == 2

    def test_one(self, world: World) -> None:
        service = world.service()
        shown = world.viewer.get(f"/v1/services/{service.slug}/").json()
        assert (shown["team"], shown["provider"], shown["description"]) == ("imaging", "internal", "")

    def test_a_lead_changes_the_description(self, world: World) -> None:
        service = world.service()
        answer = world.lead.patch(f"/v1/services/{service.slug}/", {"description": "New"})
        assert answer.status_code == 200
        assert Service.objects.get(pk=service.pk).description == "New"


class TestServices201:
    def test_a_lead_creates_one(self, world: World) -> None:
        answer = world.lead.post("/v1/services/", body(slug="cutouts"))
        assert answer.status_code == 201
        assert answer.json()["provider"] == "removit"
        assert Service.objects.get(slug="cutouts").team == world.imaging


class TestServices400:
    def test_an_unknown_provider_or_team(self, world: World) -> None:
        assert "provider" in problem(world.lead.post("/v1/services/", body(provider="none")))["fields"]
        assert "team" in problem(world.lead.post("/v1/services/", body(team="none")))["fields"]

    def test_another_team_looks_like_an_unknown_one(self, world: World) -> None:
        theirs = problem(world.lead.post("/v1/services/", body(team="billing")))
        unknown = problem(world.lead.post("/v1/services/", body(team="nothing")))
        assert {**theirs, "request_id": ""} == {**unknown, "request_id": ""}

    def test_a_taken_slug(self, world: World) -> None:
        error = problem(world.lead.post("/v1/services/", body(slug=world.service().slug)))
        assert "slug" in error["fields"]

    def test_only_the_description_can_change(self, world: World) -> None:
        path = f"/v1/services/{world.service().slug}/"
        assert problem(world.lead.patch(path, {"team": "billing"}))["code"] == "unknown_field"
        assert problem(world.lead.patch(path, {}))["code"] == "validation_error"


class TestServices403:
    def test_only_leads_write(self, world: World) -> None:
        path = f"/v1/services/{world.service().slug}/"
        for person in (world.operator, world.viewer, world.auditor):
            assert person.post("/v1/services/", body()).status_code == 403
            assert person.patch(path, {"description": "x"}).status_code == 403


class TestServices404:
    def test_a_strangers_service(self, world: World) -> None:
        path = f"/v1/services/{world.service().slug}/"
        assert world.stranger.get(path).status_code == 404
        assert world.stranger.patch(path, {"description": "x"}).status_code == 404
