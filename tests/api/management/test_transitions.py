"""/v1/rotations/{id}/approve/ and extend/, and what a start may demand"""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.api.management.world import World, key_path, problem, row, start, work


def asking(world: World) -> str:
    """A rotation that the lead asked for and that waits for two others."""
    world.admin.post("/v1/policies/", {"slug": "careful", "approvals": {"start": 2, "shift_past_50": 1}})
    return start(world, world.key(), policy="careful")


class TestApprove200:
    def test_it_is_shown_with_what_it_is_for_and_whether_it_counts(self, world: World) -> None:
        path = asking(world)
        seen = world.operator.get(path).json()["plan"]
        shown = world.operator.post(f"{path}approve/", {"reason": "Fine", "plan": seen}).json()
        (approval,) = shown["approvals"]
        assert (approval["transition"], approval["who"], approval["lapsed"]) == ("start", "operator", "")
        assert (approval["reason"], shown["stage"]) == ("Fine", "requested")

    def test_a_transition_that_is_still_to_come(self, world: World) -> None:
        path = asking(world)
        body = {"reason": "Fine", "transition": "shift_past_50"}
        (approval,) = world.operator.post(f"{path}approve/", body).json()["approvals"]
        assert approval["transition"] == "shift_past_50"


class TestApprove400:
    @pytest.mark.parametrize("body", [{"transition": "end"}, {"plan": "abc"}, {"plan": 5}, {"reason": ""}])
    def test_what_cannot_be(self, world: World, body: dict[str, object]) -> None:
        path = asking(world)
        error = problem(world.operator.post(f"{path}approve/", {"reason": "x", **body}))
        assert error["code"] == "validation_error"


class TestApprove412:
    def test_another_plan_is_not_approved(self, world: World) -> None:
        path = asking(world)
        answer = world.operator.post(f"{path}approve/", {"reason": "x", "plan": "0" * 64})
        assert problem(answer)["code"] == "precondition_failed"
        assert world.lead.get(path).json()["approvals"] == []


class TestExtend200:
    def test_the_deadline_moves(self, world: World) -> None:
        path = start(world, world.key(), policy="standard")
        work()
        before = row(path).deadline_at
        answer = world.operator.post(f"{path}extend/", {"reason": "Slow week", "by": "P2D"})
        assert answer.status_code == 200
        assert row(path).deadline_at == before + timedelta(days=2)
        assert answer.json()["events"][-1]["name"] == "extended"


class TestExtend400:
    @pytest.mark.parametrize("by", ["PT0S", "P31D", 5, "soon", None])
    def test_what_is_no_time(self, world: World, by: object) -> None:
        path = start(world, world.key())
        error = problem(world.operator.post(f"{path}extend/", {"reason": "x", "by": by}))
        assert "by" in error["fields"]


class TestExtend403:
    def test_viewers_give_no_time(self, world: World) -> None:
        path = start(world, world.key())
        assert world.viewer.post(f"{path}extend/", {"reason": "x", "by": "P1D"}).status_code == 403


class TestStart:
    def test_the_digest_of_a_plan_is_the_one_that_the_start_takes(self, world: World) -> None:
        key = world.key()
        path = key_path(key, "rotations/")
        seen = world.lead.post(path, {"dry_run": True, "policy": "fast"}).json()
        assert world.lead.post(path, {"dry_run": True, "policy": "fast"}).json()["digest"] == seen["digest"]
        world.admin.patch("/v1/policies/fast/", {"monitor": "PT1H"})
        refusal = world.lead.post(path, {"policy": "fast", "plan": seen["digest"]})
        assert problem(refusal)["code"] == "precondition_failed"
        seen = world.lead.post(path, {"dry_run": True, "policy": "fast"}).json()
        started = world.lead.post(path, {"policy": "fast", "plan": seen["digest"]})
        assert started.status_code == 201
        assert started.json()["plan"] == seen["digest"]

    def test_a_missing_rehearsal_is_told_and_may_be_skipped_by_a_lead(self, world: World) -> None:
        world.admin.post("/v1/policies/", {"slug": "rehearsed", "rehearsal": "P30D"})
        key = world.key("prod")
        path = key_path(key, "rotations/")
        plan = world.lead.post(path, {"dry_run": True, "policy": "rehearsed"}).json()
        assert "rehearsal" in [one["code"] for one in plan["unmet"]]
        refusal = world.lead.post(path, {"policy": "rehearsed"})
        assert (refusal.status_code, problem(refusal)["code"]) == (409, "rehearsal_required")
        skip = {"policy": "rehearsed", "skip_rehearsal": True, "reason": "No staging"}
        assert world.operator.post(path, skip).status_code == 403
        shown = world.lead.post(path, skip).json()
        assert (shown["stage"], shown["policy"]["approvals"]["start"]) == ("requested", 1)


class TestKey:
    def test_an_expiry_sets_the_date_and_the_key_says_so(self, world: World) -> None:
        ends = world.now + timedelta(days=30)
        body = {"environment": "dev", "secret": "sk_live_0123456789abcdef", "expires_at": ends.isoformat()}
        service = world.service(provider="backgrounderase")
        shown = world.lead.post(f"/v1/services/{service.slug}/keys/", {**body, "policy": "standard"}).json()
        assert shown["due_trigger"] == "expiry"
        assert shown["due_reason"].startswith("the provider lets it expire at ")
        assert (shown["held_code"], shown["held_reason"], shown["held_until"]) == (None, None, None)
