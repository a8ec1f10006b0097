"""Rotations: started, planned, listed, shown, and told what to do"""

from __future__ import annotations

import uuid

import pytest

from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Delivery, Key
from keyvault.services import consumers
from rotation.models import Operation, Rotation
from tests.api.management.world import World, key_path, new_secret, problem, row, start, work


def deliver(world: World, key: Key, instances: int) -> None:
    """One consumer of each team; instances of the first are given the current version."""
    consumer = world.consumer(team=world.billing)
    token, _ = consumers.create_token(
        world.stranger.actor, consumer, key.environment, expires_at=None, now=world.now
    )
    assert key.current is not None
    for number in range(instances):
        Delivery.objects.create(
            at=world.now,
            key=key,
            version=key.current,
            consumer=consumer,
            token=token,
            instance=f"pod-{number}",
            label="current",
            credential="consumer_token",
            status=200,
            request_id="r",
        )


class TestRotation200:
    def test_everything_that_is_known_is_shown(self, world: World) -> None:
        key = world.key()
        path = start(world, key, policy="standard", reason="Quarterly")
        work()
        shown = world.viewer.get(path).json()
        assert (shown["service"], shown["environment"]) == (key.service.slug, "dev")
        assert (shown["policy_slug"], shown["reason"], shown["trigger"]) == ("standard", "Quarterly", "api")
        assert shown["requested_by"] == "lead"
        assert shown["outgoing"]["version"] == 1
        assert shown["incoming"]["version"] == 2
        assert shown["stage"] == "shift"
        assert shown["weight"] == 5
        assert shown["clock"] == {"observed": "PT0S", "required": "P1D", "note": shown["clock"]["note"]}
        assert shown["shares"]["target"] == 5
        assert shown["proof"] == {"quiet": False, "offenders": []}
        assert shown["counts"]["incoming"]["ok"] == 0
        assert shown["policy"]["steps"][0]["weight"] == 5
        assert shown["events"][0]["name"] == "started"
        assert "abort" in shown["verbs"]

    def test_the_etag_is_the_revision(self, world: World) -> None:
        path = start(world, world.key())
        answer = world.viewer.get(path)
        assert answer["ETag"] == f'"r{row(path).revision}"'

    def test_lists_are_filtered(self, world: World) -> None:
        dev, prod = world.key("dev"), world.key("prod")
        first = start(world, dev)
        second = start(world, prod)
        world.lead.post(f"{second}abort/", {"reason": "not now"})

        def ids(query: str) -> list[str]:
            return [item["id"] for item in world.viewer.get(f"/v1/rotations/{query}").json()["items"]]

        assert len(ids("")) == 2
        assert ids("?environment=dev") == [first.split("/")[3]]
        assert ids(f"?service={prod.service.slug}") == [second.split("/")[3]]
        assert ids("?state=open") == [first.split("/")[3]]
        assert ids("?state=finished") == ids("?state=cancelled") == [second.split("/")[3]]
        assert world.stranger.get("/v1/rotations/").json()["items"] == []

    def test_pause_resume_and_advance(self, world: World) -> None:
        path = start(world, world.key(), policy="standard")
        work()
        paused = world.operator.post(f"{path}pause/", {"reason": "Lunch"})
        assert paused.status_code == 200
        assert paused.json()["paused"] is True
        assert "resume" in paused.json()["verbs"]
        assert world.operator.post(f"{path}resume/", {"reason": "Back"}).json()["paused"] is False
        advanced = world.operator.post(f"{path}advance/", {"reason": "Looks good"}).json()
        assert advanced["weight"] == 25
        assert advanced["events"][-1]["stage"] == "shift"
        event = AuditEvent.objects.filter(name="rotation:paused").get()
        assert (event.actor, event.reason) == ("operator", "Lunch")

    def test_abort_before_a_key_exists_cancels(self, world: World) -> None:
        path = start(world, world.key(provider="backgrounderase"))
        work()
        assert world.operator.post(f"{path}abort/", {"reason": "Wrong key"}).json()["stage"] == "cancelled"

    def test_supply_takes_the_secret_and_seals_it(self, world: World) -> None:
        path = start(world, world.key(provider="backgrounderase"))
        work()
        assert world.lead.get(path).json()["attention"]["code"] == "supply_key"
        secret = new_secret()
        answer = world.lead.post(
            f"{path}supply/", {"secret": secret, "provider_key_id": "k-2", "reason": "Made it"}
        )
        assert answer.status_code == 200
        assert secret not in answer.content.decode()
        assert answer.json()["attention"] is None
        incoming = row(path).incoming
        assert incoming is not None
        assert incoming.provider_key_id == "k-2"
        assert open_version(incoming).expose() == secret

    def test_somebody_else_approves_the_start(self, world: World) -> None:
        world.admin.post("/v1/policies/", {"slug": "careful", "approvals": {"start": 1}})
        path = start(world, world.key(), policy="careful")
        assert world.lead.get(path).json()["stage"] == "requested"
        assert world.lead.post(f"{path}approve/", {"reason": "Mine"}).status_code == 403
        approved = world.operator.post(f"{path}approve/", {"reason": "Yes"})
        assert approved.json()["stage"] == "deploy"


class TestPlan200:
    def test_a_dry_run_touches_nothing(self, world: World) -> None:
        key = world.key("prod")
        events = AuditEvent.objects.count()
        answer = world.operator.post(key_path(key, "rotations/"), {"dry_run": True, "policy": "standard"})
        assert answer.status_code == 200
        assert not Rotation.objects.exists()
        assert not Operation.objects.exists()
        assert AuditEvent.objects.count() == events

    def test_the_plan_tells_calls_times_and_quota(self, world: World) -> None:
        key = world.key("prod")
        plan = world.lead.post(key_path(key, "rotations/"), {"dry_run": True}).json()
        calls = [(call["operation"], call["by"]) for call in plan["calls"]]
        assert calls == [
            ("issue", "driver"),
            ("verify", "driver"),
            ("probe", "driver"),
            ("disable", "driver"),
            ("revoke", "driver"),
            ("confirm", "driver"),
        ]
        assert [stage["stage"] for stage in plan["stages"]] == [
            "deploy",
            "shift",
            "monitor",
            "revoke",
            "succeeded",
        ]
        times = [stage["at"] for stage in plan["stages"]]
        assert times == sorted(times)
        assert [step["weight"] for step in plan["steps"]] == [5, 25, 50, 100]
        assert plan["quota"] == {"limit": None, "used": 1, "headroom": None}
        assert (plan["outgoing"], plan["incoming"]) == (1, 2)
        assert plan["unmet"] == []

    def test_instances_are_those_that_really_move(self, world: World) -> None:
        key = world.key()
        deliver(world, key, 50)  # so many that chance leaves neither step empty
        policy = {"slug": "two", "steps": [{"weight": 40, "hold": "PT1M"}, {"weight": 100, "hold": "PT1M"}]}
        world.admin.post("/v1/policies/", policy)
        body = {"policy": "two"}
        plan = world.lead.post(key_path(key, "rotations/"), {**body, "dry_run": True}).json()
        first = {one["instance"] for one in plan["steps"][0]["instances"]}
        last = {one["instance"] for one in plan["steps"][1]["instances"]}
        assert {one["team"] for one in plan["steps"][0]["instances"]} == {"billing"}
        assert first
        assert last
        assert not first & last
        assert len(first | last) == 50
        path = start(world, key, **body)
        work()
        shown = world.lead.get(path).json()
        assert shown["weight"] == 40
        assert shown["shares"]["assigned"] == pytest.approx(100 * len(first) / 50)

    def test_what_stands_in_the_way_is_listed(self, world: World) -> None:
        key = world.key(provider="backgrounderase")
        start(world, key)
        world.admin.post(
            "/v1/policies/",
            {
                "slug": "frozen",
                "approvals": {"start": 1},
                "freezes": [
                    {"from": "2000-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z", "reason": "Sales"}
                ],
            },
        )
        world.admin.patch("/v1/providers/backgrounderase/", {"max_keys": 1})
        plan = world.lead.post(key_path(key, "rotations/"), {"dry_run": True, "policy": "frozen"}).json()
        unmet = {one["code"]: one for one in plan["unmet"]}
        assert unmet.keys() == {"rotation_in_progress", "window", "approval_start", "quota", "supply_key"}
        assert unmet["rotation_in_progress"]["blocking"] is True
        assert unmet["quota"]["blocking"] is True
        assert plan["gap"] == ""
        assert "Sales" in unmet["window"]["message"]
        assert plan["quota"] == {"limit": 1, "used": 1, "headroom": 0}
        assert ("issue", "person") in [(call["operation"], call["by"]) for call in plan["calls"]]

    def test_viewers_may_look_at_a_plan(self, world: World) -> None:
        answer = world.viewer.post(key_path(world.key(), "rotations/"), {"dry_run": True})
        assert answer.status_code == 200


class TestRotation201:
    def test_an_operator_starts_one(self, world: World) -> None:
        key = world.key("prod")
        answer = world.operator.post(key_path(key, "rotations/"), {})
        assert answer.status_code == 201
        assert answer.json()["policy_slug"] == "standard"
        assert answer["Location"] == f"/v1/rotations/{answer.json()['id']}/"
        assert answer["ETag"].startswith('"r')

    def test_no_body_is_needed(self, world: World) -> None:
        assert world.operator.post(key_path(world.key(), "rotations/")).status_code == 201


class TestRotation400:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("policy", "none"),
            ("policy", 5),
            ("dry_run", "true"),
            ("dry_run", 1),
            ("reason", 5),
            ("reason", "x" * 501),
            ("reason", "a\u202eb"),
        ],
    )
    def test_an_odd_start(self, world: World, field: str, value: object) -> None:
        error = problem(world.lead.post(key_path(world.key(), "rotations/"), {field: value}))
        assert field in error["fields"]
        assert not Rotation.objects.exists()

    @pytest.mark.parametrize("reason", [None, "", " ", 5, "x" * 501, "two\nlines", ["a"]])
    @pytest.mark.parametrize("verb", ["pause", "abort", "supply", "force-revoke", "confirm-revoked"])
    def test_every_verb_needs_a_reason(self, world: World, verb: str, reason: object) -> None:
        path = start(world, world.key())
        more: dict[str, dict[str, object]] = {
            "supply": {"secret": new_secret()},
            "force-revoke": {"offenders": 0},
        }
        body = more.get(verb, {})
        error = problem(world.lead.post(f"{path}{verb}/", {**body, "reason": reason}))
        assert (error["code"], "reason" in error["fields"]) == ("validation_error", True)

    @pytest.mark.parametrize("offenders", [None, "0", -1, True, 0.0])
    def test_the_number_of_offenders_is_typed(self, world: World, offenders: object) -> None:
        path = start(world, world.key())
        error = problem(world.lead.post(f"{path}force-revoke/", {"reason": "x", "offenders": offenders}))
        assert "offenders" in error["fields"]

    def test_a_supplied_secret_is_checked(self, world: World) -> None:
        path = start(world, world.key(provider="backgrounderase"))
        work()
        answer = world.lead.post(f"{path}supply/", {"secret": "YOUR_API_KEY", "reason": "x"})
        assert "placeholder" in problem(answer)["fields"]["secret"][0]

    def test_the_key_that_is_replaced_is_not_new(self, world: World) -> None:
        secret = new_secret()
        path = start(world, world.key(provider="backgrounderase", secret=secret))
        work()
        answer = world.lead.post(f"{path}supply/", {"secret": secret, "reason": "x"})
        error = problem(answer)
        assert (error["code"], error["reason"]) == ("validation_error", "already_held")

    @pytest.mark.parametrize(
        "query", ["?state=strange", "?environment=", "?stage=shift", "?state=open&state=open"]
    )
    def test_odd_filters(self, world: World, query: str) -> None:
        assert problem(world.lead.get(f"/v1/rotations/{query}"))["code"] == "validation_error"

    def test_an_odd_if_match(self, world: World) -> None:
        path = start(world, world.key())
        for tag in ("r1", 'W/"r1"', '"r1", "r2"'):
            answer = world.lead.post(f"{path}pause/", {"reason": "x"}, If_Match=tag)
            assert "If-Match" in problem(answer)["fields"]


class TestRotation403:
    def test_viewers_and_auditors_change_nothing(self, world: World) -> None:
        key = world.key()
        path = start(world, key)
        for person in (world.viewer, world.auditor):
            assert person.post(key_path(world.key(), "rotations/"), {}).status_code == 403
            for verb in ("approve", "pause", "resume", "advance", "abort", "confirm-revoked"):
                assert person.post(f"{path}{verb}/", {"reason": "x"}).status_code == 403
            supplied = person.post(f"{path}supply/", {"reason": "x", "secret": new_secret()})
            assert supplied.status_code == 403

    def test_an_operator_neither_supplies_nor_forces(self, world: World) -> None:
        path = start(world, world.key(provider="backgrounderase"))
        work()
        answer = world.operator.post(f"{path}supply/", {"secret": new_secret(), "reason": "x"})
        assert problem(answer)["code"] == "permission_denied"
        assert row(path).incoming is not None
        assert Rotation.objects.get().attention == "supply_key"


class TestRotation404:
    def test_a_stranger_finds_nothing(self, world: World) -> None:
        key = world.key()
        path = start(world, key)
        assert world.stranger.get(path).status_code == 404
        assert world.stranger.post(f"{path}pause/", {"reason": "x"}).status_code == 404
        assert world.stranger.post(key_path(key, "rotations/"), {"dry_run": True}).status_code == 404

    def test_unknown_ones(self, world: World) -> None:
        for odd in (uuid.uuid4(), "abc", -1, "9" * 23, "00000000-0000-0000-0000-00000000000g"):
            assert world.lead.get(f"/v1/rotations/{odd}/").status_code == 404
            assert world.lead.post(f"/v1/rotations/{odd}/pause/", {"reason": "x"}).status_code == 404

    def test_an_unknown_verb(self, world: World) -> None:
        path = start(world, world.key())
        assert world.lead.post(f"{path}restart/", {"reason": "x"}).status_code == 404


class TestRotation409:
    def test_a_second_rotation_of_the_key(self, world: World) -> None:
        key = world.key()
        path = start(world, key)
        error = problem(world.lead.post(key_path(key, "rotations/"), {}))
        assert error["code"] == "rotation_in_progress"
        assert error["rotation"] == path.split("/")[3]
        assert Rotation.objects.count() == 1

    def test_a_verb_that_is_not_possible_tells_those_that_are(self, world: World) -> None:
        path = start(world, world.key())
        error = problem(world.lead.post(f"{path}resume/", {"reason": "x"}))
        assert error["code"] == "invalid_transition"
        assert error["state"] == "deploy"
        assert "pause" in error["verbs"]

    def test_a_finished_one_takes_no_verb(self, world: World) -> None:
        path = start(world, world.key(provider="backgrounderase"))
        work()
        world.lead.post(f"{path}abort/", {"reason": "x"})
        for verb in ("pause", "abort", "advance"):
            error = problem(world.lead.post(f"{path}{verb}/", {"reason": "x"}))
            assert (error["code"], error["verbs"]) == ("invalid_transition", [])


class TestRotation412:
    def test_a_stale_etag_changes_nothing(self, world: World) -> None:
        path = start(world, world.key())
        old = world.lead.get(path)["ETag"]
        fresh = world.lead.post(f"{path}pause/", {"reason": "x"}, If_Match=old)
        assert fresh.status_code == 200
        stale = world.lead.post(f"{path}abort/", {"reason": "x"}, If_Match=old)
        assert problem(stale)["code"] == "precondition_failed"
        assert row(path).abort_asked_at is None
        again = world.lead.post(f"{path}resume/", {"reason": "x"}, If_Match=fresh["ETag"])
        assert again.status_code == 200

    def test_a_foreign_tag_never_matches_and_a_star_always_does(self, world: World) -> None:
        path = start(world, world.key())
        assert world.lead.post(f"{path}pause/", {"reason": "x"}, If_Match='"other"').status_code == 412
        assert world.lead.post(f"{path}pause/", {"reason": "x"}, If_Match="*").status_code == 200

    def test_a_wrong_number_of_offenders(self, world: World) -> None:
        key = world.key()
        deliver(world, key, 2)
        path = start(world, key, policy="emergency")
        work()
        assert world.lead.post(f"{path}advance/", {"reason": "x"}).json()["stage"] == "monitor"
        answer = world.lead.post(f"{path}force-revoke/", {"reason": "x", "offenders": 0})
        error = problem(answer)
        assert error["code"] == "precondition_failed"
        assert len(error["offenders"]) == 2
        assert [one["who"] for one in world.lead.get(path).json()["proof"]["offenders"]] == error["offenders"]
        forced = world.lead.post(f"{path}force-revoke/", {"reason": "x", "offenders": 2})
        assert forced.json()["stage"] == "revoke"
