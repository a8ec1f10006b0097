"""Emergencies of one key, and of all that a selector names"""

from __future__ import annotations

from typing import Any

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.domain import Role
from keyvault.keystore import open_version
from keyvault.models import Environment, KeyVersion
from keyvault.services import consumers, people
from keyvault.services import keys as services_keys
from rotation.models import EmergencyRun, Rotation
from rotation.services import runs
from tests.api.management.world import Person, World, key_path, new_secret, problem, start, work

PATH = "/v1/emergency/"


class TestEmergency201:
    def test_replace_goes_straight_to_everybody(self, world: World) -> None:
        key = world.key("prod")
        answer = world.lead.post(key_path(key, "emergency/"), {"mode": "replace", "reason": "In a log"})
        assert answer.status_code == 201
        assert (answer.json()["policy_slug"], answer.json()["trigger"]) == ("emergency", "emergency")
        work()
        shown = world.lead.get(answer["Location"]).json()
        # Nobody used the leaked version, so nothing had to be waited for.
        assert (shown["stage"], shown["weight"]) == ("succeeded", 100)
        assert shown["outgoing"]["state"] == "revoked"
        assert KeyVersion.objects.get(key=key, number=1).compromised_at is not None

    def test_kill_withholds_the_leaked_version_at_once(self, world: World) -> None:
        key = world.key("prod")
        answer = world.lead.post(
            key_path(key, "emergency/"), {"mode": "kill", "reason": "Abused", "confirm": str(key)}
        )
        assert answer.status_code == 201
        assert KeyVersion.objects.get(key=key, number=1).withheld_at is not None

    def test_an_open_rotation_is_hurried_along(self, world: World) -> None:
        key = world.key("prod")
        path = start(world, key)
        answer = world.lead.post(key_path(key, "emergency/"), {"mode": "replace", "reason": "x"})
        assert answer["Location"] == path
        assert answer.json()["policy_slug"] == "emergency"
        assert Rotation.objects.count() == 1

    def test_a_version_that_is_not_the_current_one(self, world: World) -> None:
        key = world.key("prod")
        body = {"mode": "replace", "reason": "x", "version": 7}
        answer = world.lead.post(key_path(key, "emergency/"), body)
        assert problem(answer)["code"] == "no_active_version"


class TestEmergency412:
    def test_a_kill_of_the_last_version_tells_who_suffers(self, world: World) -> None:
        key = world.key("prod")
        for typed in ({}, {"confirm": "prod"}):
            body = {"mode": "kill", "reason": "Abused", **typed}
            error = problem(world.lead.post(key_path(key, "emergency/"), body))
            assert error["code"] == "precondition_failed"
            assert (error["confirm"], error["instances"], error["open_jobs"]) == (str(key), [], 0)
        assert not Rotation.objects.exists()


def planned(who: Person, **body: Any) -> dict[str, Any]:
    """The plan of a bulk emergency."""
    answer = who.post(PATH, {"mode": "replace", "reason": "x", **body, "dry_run": True})
    assert answer.status_code == 200, answer.content
    shown: dict[str, Any] = answer.json()
    return shown


def send(person: Person, plan: dict[str, Any], **body: Any) -> Any:
    """The start of what a plan says, with its number typed."""
    given = {"mode": plan["mode"], "reason": "x", "plan": plan["plan"], "count": plan["count"]}
    return person.post(PATH, {**given, **body})


def beat() -> None:
    runs.carry_on(clock.now(), ring=lambda _: None)


class TestPlan200:
    def test_production_comes_first_and_each_key_is_named(self, world: World) -> None:
        for environment in ("dev", "prod", "staging"):
            world.key(environment)
        world.key("prod", team=world.billing)
        plan = planned(world.lead, provider="internal")
        assert [item["environment"] for item in plan["items"]] == ["prod", "staging", "dev"]
        assert plan["count"] == 3
        first = plan["items"][0]
        assert (first["team"], first["provider"], first["version"]) == ("imaging", "internal", 1)
        assert (first["action"], first["rotation"], first["error"]) == ("start", None, None)
        assert (first["instances"], first["open_jobs"], first["last"]) == ([], 0, True)
        assert not Rotation.objects.exists()
        assert not EmergencyRun.objects.exists()

    def test_an_open_rotation_is_part_of_it(self, world: World) -> None:
        key = world.key("prod")
        path = start(world, key)
        (item,) = planned(world.lead, service=key.service.slug)["items"]
        assert (item["action"], item["rotation"]) == ("hurry", path.split("/")[-2])

    def test_what_cannot_be_is_said_and_not_counted(self, world: World) -> None:
        empty = world.service(provider="internal")
        world.lead.post(f"/v1/services/{empty.slug}/keys/", {"environment": "dev"})
        world.key("dev")
        plan = planned(world.lead, environment="dev")
        errors = [item["error"] and item["error"]["code"] for item in plan["items"]]
        assert sorted(map(str, errors)) == ["None", "no_active_version"]
        assert plan["count"] == 1

    def test_a_pasted_leak_finds_its_keys_and_is_not_repeated(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        world.key("prod")
        answer = world.lead.post(PATH, {"leak": secret, "mode": "replace", "reason": "x", "dry_run": True})
        assert [item["service"] for item in answer.json()["items"]] == [key.service.slug]
        assert secret not in answer.content.decode()

    def test_a_key_that_we_issued_may_leak_too(self, world: World) -> None:
        service = world.service()
        world.lead.post(f"/v1/services/{service.slug}/keys/", {"environment": "dev"})
        work()
        version = KeyVersion.objects.select_related("key__environment").get(key__service=service)
        assert planned(world.lead, leak=open_version(version).expose())["count"] == 1

    def test_a_consumer_token_may_leak_too(self, world: World) -> None:
        token, secret = consumers.create_token(
            SYSTEM,
            world.consumer(),
            Environment.objects.get(slug="dev"),
            expires_at=None,
            now=world.now,
        )
        plan = planned(world.lead, leak=secret.expose(), mode="kill")
        assert [found["hint"] for found in plan["tokens"]] == [token.hint]
        assert send(world.lead, plan, leak=secret.expose()).status_code == 201
        beat()
        token.refresh_from_db()
        assert token.revoked_at is not None
        assert planned(world.stranger, leak=secret.expose(), mode="kill")["tokens"] == []

    def test_a_leak_of_another_team_or_of_nobody_finds_nothing(self, world: World) -> None:
        secret = new_secret()
        world.key("prod", secret=secret, team=world.billing)
        plans = [planned(world.lead, leak=leak, mode="kill") for leak in (secret, new_secret())]
        assert plans[0] == plans[1]
        assert plans[0]["items"] == []

    def test_what_a_person_has_seen(self, world: World) -> None:
        seen, pasted, other = (world.key("dev") for _ in range(3))
        services_keys.reveal(world.lead.actor, seen, reason="debugging", now=world.now)
        made = world.service(provider="backgrounderase")
        body = {"environment": "dev", "secret": new_secret()}
        assert world.lead.post(f"/v1/services/{made.slug}/keys/", body).status_code == 201
        found = {item["service"]: item["why"] for item in planned(world.admin, person="lead")["items"]}
        assert found.keys() == {seen.service.slug, made.slug}
        assert "revealed" in found[seen.service.slug]
        assert "pasted" in found[made.slug]
        wide = planned(world.admin, person="lead", reachable=True)
        assert {pasted.service.slug, other.service.slug} < {item["service"] for item in wide["items"]}

    def test_whoever_left_the_team_was_its_lead(self, world: World) -> None:
        key = world.key("dev")
        people.remove_member(SYSTEM, world.imaging, username="lead", now=world.now)
        plan = planned(world.admin, person="lead", reachable=True)
        assert [item["service"] for item in plan["items"]] == [key.service.slug]


class TestBulk201:
    def test_the_beat_starts_what_was_confirmed(self, world: World) -> None:
        keys = [world.key(environment) for environment in ("dev", "prod")]
        plan = planned(world.lead, team="imaging")
        answer = send(world.lead, plan, team="imaging")
        assert answer.status_code == 201, answer.content
        shown = answer.json()
        assert (shown["state"], shown["progress"]["waiting"]) == ("running", 2)
        assert not Rotation.objects.exists(), "the intent is written first"
        beat()
        shown = world.lead.get(answer["Location"]).json()
        assert [item["result"] for item in shown["items"]] == ["running", "running"]
        assert Rotation.objects.filter(key__in=keys, trigger="emergency").count() == 2
        work()
        beat()
        shown = world.lead.get(answer["Location"]).json()
        assert (shown["state"], shown["progress"]["done"]) == ("done", 2)
        assert world.lead.get(PATH).json()["items"][0]["id"] == shown["id"]

    def test_the_same_start_twice_is_one_run(self, world: World) -> None:
        world.key("dev")
        plan = planned(world.lead, team="imaging")
        first, second = (send(world.lead, plan, team="imaging") for _ in range(2))
        assert first.json()["id"] == second.json()["id"]
        beat()
        assert Rotation.objects.count() == 1

    def test_two_runs_that_share_a_key_start_it_once(self, world: World) -> None:
        world.key("dev")
        one, two = planned(world.lead, team="imaging"), planned(world.lead, environment="dev")
        paths = [send(world.lead, one, team="imaging"), send(world.lead, two, environment="dev")]
        beat()
        beat()
        rotation = Rotation.objects.get()
        for answer in paths:
            (item,) = world.lead.get(answer["Location"]).json()["items"]
            assert item["rotation"] == str(rotation.id)
        assert rotation.events.filter(name="advanced").count() == 0

    def test_a_key_that_is_dead_by_then_is_skipped(self, world: World) -> None:
        world.key("dev")
        one, two = planned(world.lead, team="imaging"), planned(world.lead, environment="dev")
        send(world.lead, one, team="imaging")
        path = send(world.lead, two, environment="dev")["Location"]
        world.lead.post(f"{path}stop/", {"reason": "one is enough"})
        beat()
        work()
        world.lead.post(f"{path}resume/", {"reason": "was it?"})
        beat()
        (item,) = world.lead.get(path).json()["items"]
        assert (item["result"], item["error"]["code"]) == ("skipped", "version_gone")
        assert Rotation.objects.count() == 1

    def test_stop_leaves_the_rest_and_resume_goes_on(self, world: World, settings: Any) -> None:
        settings.KEYTURN_EMERGENCY_PROVIDER_CAP = 1
        for environment in ("dev", "prod", "staging"):
            world.key(environment)
        path = send(world.lead, planned(world.lead, team="imaging"), team="imaging")["Location"]
        beat()
        assert Rotation.objects.get().key.environment.slug == "prod"
        stopped = world.lead.post(f"{path}stop/", {"reason": "wait"}).json()
        assert (stopped["state"], stopped["progress"]["waiting"]) == ("stopped", 2)
        work()
        beat()
        assert Rotation.objects.count() == 1
        assert KeyVersion.objects.filter(compromised_at__isnull=False).count() == 1
        assert world.lead.post(f"{path}resume/", {"reason": "on"}).json()["state"] == "running"
        for _ in range(3):
            beat()
            work()
        shown = world.lead.get(path).json()
        assert (shown["state"], shown["progress"]["done"]) == ("done", 3)

    def test_rights_are_those_at_the_moment_of_the_start(self, world: World) -> None:
        world.key("dev")
        path = send(world.lead, planned(world.lead, team="imaging"), team="imaging")["Location"]
        people.set_member(SYSTEM, world.imaging, username="lead", role=Role.VIEWER, now=world.now)
        beat()
        (item,) = world.lead.get(path).json()["items"]
        assert (item["result"], item["error"]["code"]) == ("refused", "permission_denied")
        assert not Rotation.objects.exists()


class TestBulk412:
    def test_another_world_answers_the_new_plan(self, world: World) -> None:
        world.key("dev")
        plan = planned(world.lead, team="imaging")
        world.key("dev")
        error = problem(send(world.lead, plan, team="imaging"))
        assert error["code"] == "precondition_failed"
        assert error["plan"] == planned(world.lead, team="imaging")
        assert not EmergencyRun.objects.exists()

    def test_a_plan_is_for_whoever_made_it_and_its_mode(self, world: World) -> None:
        world.key("dev")
        plan = planned(world.lead, team="imaging")
        assert send(world.admin, plan, team="imaging").status_code == 412
        assert send(world.lead, plan, team="imaging", mode="kill").status_code == 412

    def test_the_number_has_to_be_typed(self, world: World) -> None:
        world.key("dev")
        plan = planned(world.lead, team="imaging")
        assert send(world.lead, plan, team="imaging", count=2).status_code == 412
        assert not EmergencyRun.objects.exists()


class TestBulk403:
    def test_what_is_not_yours_to_replace(self, world: World) -> None:
        world.key("dev")
        for person in (world.operator, world.auditor):
            plan = planned(person, team="imaging")
            assert [item["error"]["code"] for item in plan["items"]] == ["permission_denied"]
            assert send(person, plan, team="imaging").status_code == 403
        assert not EmergencyRun.objects.exists()

    def test_what_a_person_has_seen_is_for_administrators(self, world: World) -> None:
        body = {"person": "lead", "mode": "kill", "reason": "x", "dry_run": True}
        assert world.lead.post(PATH, body).status_code == 403

    def test_another_teams_lead_does_not_stop_it(self, world: World) -> None:
        world.key("dev")
        world.key("dev", team=world.billing)
        path = send(world.admin, planned(world.admin, environment="dev"), environment="dev")["Location"]
        assert world.stranger.post(f"{path}stop/", {"reason": "x"}).status_code == 403
        assert world.admin.post(f"{path}stop/", {"reason": "x"}).status_code == 200

    def test_everybody_sees_only_what_is_theirs(self, world: World) -> None:
        world.key("dev")
        theirs = world.key("dev", team=world.billing)
        path = send(world.admin, planned(world.admin, environment="dev"), environment="dev")["Location"]
        shown = world.stranger.get(path).json()
        assert [item["service"] for item in shown["items"]] == [theirs.service.slug]
        assert shown["progress"]["waiting"] == 1


class TestRun404:
    def test_a_strangers_run(self, world: World) -> None:
        world.key("dev")
        path = send(world.lead, planned(world.lead, team="imaging"), team="imaging")["Location"]
        assert world.stranger.get(path).status_code == 404
        assert world.stranger.get(PATH).json()["items"] == []
        for verb in ("stop", "resume", "confirm"):
            assert world.stranger.post(f"{path}{verb}/", {"reason": "x"}).status_code == 404


class TestRun409:
    def test_what_is_over_is_neither_stopped_nor_resumed(self, world: World) -> None:
        world.key("dev")
        path = send(world.lead, planned(world.lead, team="imaging"), team="imaging")["Location"]
        for _ in range(2):
            beat()
            work()
        beat()
        for verb in ("stop", "resume"):
            assert problem(world.lead.post(f"{path}{verb}/", {"reason": "x"}))["code"] == "invalid_transition"
        body = {"reason": "x", "plan": "x", "count": 1}
        assert problem(world.lead.post(f"{path}confirm/", body))["code"] == "invalid_transition"


class TestEmergency400:
    @pytest.mark.parametrize(
        "body",
        [
            {"mode": "replace"},
            {"reason": "x"},
            {"mode": "stop", "reason": "x"},
            {"mode": "kill", "reason": ""},
            {"mode": "kill", "reason": 5},
        ],
    )
    def test_mode_and_reason_are_needed(self, world: World, body: dict[str, object]) -> None:
        assert (
            problem(world.lead.post(key_path(world.key(), "emergency/"), body))["code"] == "validation_error"
        )
        assert problem(world.lead.post(PATH, {**body, "team": "imaging"}))["code"] == "validation_error"
        assert not Rotation.objects.exists()

    @pytest.mark.parametrize(
        "selector",
        [
            {},
            {"team": "imaging", "provider": "internal"},
            {"provider": "none"},
            {"team": "billing"},
            {"environment": "qa"},
            {"leak": ""},
            {"leak": "two words"},
            {"team": "imaging", "reachable": True},
            {"team": "imaging"},
            {"team": "imaging", "count": 1},
            {"team": "imaging", "plan": "x"},
            {"team": "imaging", "plan": "x", "count": 0},
        ],
    )
    def test_exactly_one_selector_that_is_known(self, world: World, selector: dict[str, object]) -> None:
        answer = world.lead.post(PATH, {"mode": "kill", "reason": "x", **selector})
        assert problem(answer)["code"] == "validation_error"


class TestEmergency403:
    def test_only_leads(self, world: World) -> None:
        path = key_path(world.key(), "emergency/")
        for person in (world.operator, world.viewer, world.auditor):
            assert person.post(path, {"mode": "replace", "reason": "x"}).status_code == 403


class TestEmergency404:
    def test_a_strangers_key(self, world: World) -> None:
        path = key_path(world.key(), "emergency/")
        assert world.stranger.post(path, {"mode": "kill", "reason": "x"}).status_code == 404

    def test_a_key_without_a_version(self, world: World) -> None:
        service = world.service()
        world.lead.post(f"/v1/services/{service.slug}/keys/", {"environment": "dev"})
        answer = world.lead.post(f"/v1/keys/{service.slug}/dev/emergency/", {"mode": "kill", "reason": "x"})
        assert problem(answer)["code"] == "no_active_version"
