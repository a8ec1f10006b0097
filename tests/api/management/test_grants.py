"""/v1/grants/"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from keyvault.models import Grant
from tests.api.management.world import World, problem


def body(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "consumer": world.consumer().slug,
        "service": world.service().slug,
        "environment": "dev",
        "verbs": ["read"],
        **changes,
    }


class TestGrants200:
    def test_both_teams_see_the_grant_and_filters_narrow(self, world: World) -> None:
        theirs = world.consumer(team=world.billing)
        made = world.lead.post("/v1/grants/", body(world, consumer=theirs.slug)).json()
        world.lead.post("/v1/grants/", body(world))
        assert len(world.viewer.get("/v1/grants/").json()["items"]) == 2
        assert [item["id"] for item in world.stranger.get("/v1/grants/").json()["items"]] == [made["id"]]
        narrowed = world.lead.get(f"/v1/grants/?service={made['service']}").json()["items"]
        assert [item["id"] for item in narrowed] == [made["id"]]
        assert world.lead.get(f"/v1/grants/{made['id']}/").json() == made


class TestGrants201:
    def test_a_lead_grants_and_a_second_post_replaces(self, world: World) -> None:
        given = body(world, verbs=["report", "read"])
        answer = world.lead.post("/v1/grants/", given)
        assert answer.status_code == 201
        assert answer.json()["verbs"] == ["read", "report"]
        assert world.lead.post("/v1/grants/", {**given, "verbs": ["versions"]}).json()["verbs"] == [
            "versions"
        ]
        assert Grant.objects.get().verbs == ["versions"]


class TestGrants204:
    def test_the_lead_of_the_service_removes_it(self, world: World) -> None:
        made = world.lead.post("/v1/grants/", body(world)).json()
        assert world.lead.delete(f"/v1/grants/{made['id']}/").status_code == 204
        assert not Grant.objects.exists()


class TestGrants400:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("verbs", []),
            ("verbs", ["write"]),
            ("verbs", "read"),
            ("verbs", [["read"]]),
            ("consumer", "nobody"),
            ("service", "nothing"),
            ("environment", "qa"),
            ("environment", None),
        ],
    )
    def test_what_cannot_be_granted(self, world: World, field: str, value: object) -> None:
        error = problem(world.lead.post("/v1/grants/", body(world, **{field: value})))
        assert error["code"] == "validation_error"
        assert any(name.partition(".")[0] == field for name in error["fields"])

    def test_another_teams_service_looks_unknown(self, world: World) -> None:
        theirs = world.service(team=world.billing)
        assert (
            "service" in problem(world.lead.post("/v1/grants/", body(world, service=theirs.slug)))["fields"]
        )


class TestGrants403:
    def test_only_the_lead_of_the_service_decides(self, world: World) -> None:
        theirs = world.consumer(team=world.billing)
        made = world.lead.post("/v1/grants/", body(world, consumer=theirs.slug)).json()
        for person in (world.operator, world.viewer, world.auditor, world.stranger):
            assert person.delete(f"/v1/grants/{made['id']}/").status_code == 403
        for person in (world.operator, world.viewer, world.auditor):
            assert person.post("/v1/grants/", body(world)).status_code == 403
        assert Grant.objects.count() == 1


class TestGrants404:
    def test_a_strangers_grant_and_an_unknown_one(self, world: World) -> None:
        made = world.lead.post("/v1/grants/", body(world)).json()
        assert world.stranger.get(f"/v1/grants/{made['id']}/").status_code == 404
        assert world.stranger.delete(f"/v1/grants/{made['id']}/").status_code == 404
        assert world.lead.delete(f"/v1/grants/{uuid.uuid4()}/").status_code == 404
