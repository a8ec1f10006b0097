"""/v1/audit/"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keyvault.models import AuditEvent
from tests.api.management.world import Person, World, problem


def events(person: Person, query: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = person.get(f"/v1/audit/{query}").json()["items"]
    return items


class TestAudit200:
    def test_people_see_the_events_of_their_teams(self, world: World) -> None:
        world.key()
        world.key(team=world.billing)
        assert {event["team"] for event in events(world.viewer)} == {"imaging"}
        assert {event["team"] for event in events(world.stranger)} == {"billing"}

    def test_auditors_and_administrators_see_everything(self, world: World) -> None:
        world.key()
        for person in (world.auditor, world.admin):
            assert len(person.get("/v1/audit/?limit=200").json()["items"]) == AuditEvent.objects.count()

    def test_the_newest_come_first_with_all_they_hold(self, world: World) -> None:
        world.lead.post("/v1/consumers/", {"slug": "web", "team": "imaging"})
        event = events(world.viewer)[0]
        assert (event["event"], event["actor"]) == ("consumer:created", {"kind": "user", "name": "lead"})
        assert event["details"] == {"consumer": "web"}
        sequences = [item["sequence"] for item in events(world.viewer)]
        assert sequences == sorted(sequences, reverse=True)

    def test_filters(self, world: World) -> None:
        key = world.key("prod")
        world.lead.post("/v1/consumers/", {"slug": "web", "team": "imaging"})
        by_key = events(world.viewer, f"?key={key.service.slug}/prod")
        assert {(item["service"], item["environment"]) for item in by_key} == {(key.service.slug, "prod")}
        assert [item["event"] for item in events(world.viewer, "?actor=lead")] == ["consumer:created"]
        assert {item["event"] for item in events(world.viewer, "?event=key:created")} == {"key:created"}
        later = (world.now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        earlier = (world.now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert events(world.viewer, f"?since={later}") == []
        assert len(events(world.viewer, f"?since={earlier}")) == len(events(world.viewer))

    def test_pages_join_without_gap_or_repetition(self, world: World) -> None:
        for _ in range(3):
            world.key()
        whole = [item["sequence"] for item in events(world.admin, "?limit=200")]
        paged: list[int] = []
        query = "?limit=4"
        while query:
            answer = world.admin.get(f"/v1/audit/{query}").json()
            paged += [item["sequence"] for item in answer["items"]]
            cursor = answer["next_cursor"]
            query = f"?limit=4&cursor={cursor}" if cursor else ""
        assert paged == whole


class TestAudit400:
    @pytest.mark.parametrize(
        "query",
        [
            "?since=2026-01-01T00:00:00",
            "?since=2026-01-01",
            "?since=1767225600",
            "?since=10000-01-01T00:00:00Z",
            "?since=2026-01-01T24:00:00Z",
            "?since=2026-02-30T00:00:00Z",
            "?event=nothing",
            "?key=service",
            "?key=a/b/c",
            "?key=A/prod",
            "?actor=",
            "?actor=%00",
            "?order=sequence",
            "?page=2",
        ],
    )
    def test_odd_filters(self, world: World, query: str) -> None:
        assert problem(world.admin.get(f"/v1/audit/{query}"))["code"] == "validation_error"


class TestAudit405:
    def test_events_are_not_written_from_outside(self, world: World) -> None:
        for method in ("POST", "PATCH", "DELETE"):
            assert world.admin.call(method, "/v1/audit/", {}).status_code == 405
