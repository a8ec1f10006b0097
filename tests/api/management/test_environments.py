"""/v1/environments/"""

from __future__ import annotations

from tests.api.management.world import World


class TestEnvironments200:
    def test_all_three_are_there_and_production_is_protected(self, world: World) -> None:
        items = world.stranger.get("/v1/environments/").json()["items"]
        assert [(item["slug"], item["protected"]) for item in items] == [
            ("dev", False),
            ("staging", False),
            ("prod", True),
        ]

    def test_one(self, world: World) -> None:
        assert world.viewer.get("/v1/environments/prod/").json()["name"] == "Production"


class TestEnvironments404:
    def test_an_unknown_one(self, world: World) -> None:
        assert world.admin.get("/v1/environments/test/").status_code == 404


class TestEnvironments405:
    def test_they_cannot_be_created(self, world: World) -> None:
        answer = world.admin.post("/v1/environments/", {"slug": "qa"})
        assert answer.status_code == 405
        assert set(answer["Allow"].split(", ")) == {"GET", "HEAD"}
