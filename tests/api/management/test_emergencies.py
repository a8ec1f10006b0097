"""Emergencies of one key, and of all that a selector names"""

from __future__ import annotations

import pytest

from keyvault.keystore import open_version
from keyvault.models import KeyVersion
from rotation.models import Rotation
from tests.api.management.world import World, key_path, new_secret, problem, start, work

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
        answer = world.lead.post(key_path(key, "emergency/"), {"mode": "kill", "reason": "Abused"})
        assert answer.status_code == 201
        assert KeyVersion.objects.get(key=key, number=1).withheld_at is not None

    def test_an_open_rotation_is_hurried_along(self, world: World) -> None:
        key = world.key("prod")
        path = start(world, key)
        answer = world.lead.post(key_path(key, "emergency/"), {"mode": "replace", "reason": "x"})
        assert answer["Location"] == path
        assert answer.json()["policy_slug"] == "emergency"
        assert Rotation.objects.count() == 1


class TestBulk200:
    def test_production_comes_first_and_each_key_has_its_result(self, world: World) -> None:
        keys = [world.key(environment) for environment in ("dev", "prod", "staging")]
        theirs = world.key("prod", team=world.billing)
        shown = world.lead.post(PATH, {"provider": "internal", "mode": "replace", "reason": "x"}).json()
        assert [item["environment"] for item in shown["items"]] == ["prod", "staging", "dev"]
        assert {item["status"] for item in shown["items"]} == {"started"}
        assert Rotation.objects.filter(key__in=keys).count() == 3
        assert not Rotation.objects.filter(key=theirs).exists()

    def test_a_dry_run_starts_nothing(self, world: World) -> None:
        world.key("prod")
        body = {"team": "imaging", "mode": "kill", "reason": "x", "dry_run": True}
        shown = world.lead.post(PATH, body).json()
        assert [item["status"] for item in shown["items"]] == ["planned"]
        assert not Rotation.objects.exists()

    def test_a_key_that_cannot_is_refused_and_the_others_go_on(self, world: World) -> None:
        empty = world.service(provider="internal")
        world.lead.post(f"/v1/services/{empty.slug}/keys/", {"environment": "dev"})
        world.key("dev")
        body = {"environment": "dev", "mode": "replace", "reason": "x"}
        expected = world.lead.post(PATH, {**body, "dry_run": True}).json()
        assert sorted(item["status"] for item in expected["items"]) == ["planned", "refused"]
        shown = world.lead.post(PATH, body).json()
        results = {item["status"]: item for item in shown["items"]}
        assert results["started"]["rotation"]
        assert results["refused"]["error"]["code"] == "no_active_version"

    def test_what_is_not_yours_to_rotate_is_refused_by_itself(self, world: World) -> None:
        world.key("dev")
        body = {"team": "imaging", "mode": "replace", "reason": "x"}
        for person in (world.operator, world.auditor):
            items = person.post(PATH, body).json()["items"]
            assert [item["error"]["code"] for item in items] == ["permission_denied"]
            planned = person.post(PATH, {**body, "dry_run": True}).json()["items"]
            assert [item["error"]["code"] for item in planned] == ["permission_denied"]
        assert not Rotation.objects.exists()

    def test_a_pasted_leak_finds_its_keys_and_is_not_repeated(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        world.key("prod")
        answer = world.lead.post(PATH, {"leak": secret, "mode": "replace", "reason": "On a forum"})
        assert [item["service"] for item in answer.json()["items"]] == [key.service.slug]
        assert secret not in answer.content.decode()

    def test_a_key_that_we_issued_may_leak_too(self, world: World) -> None:
        service = world.service()
        world.lead.post(f"/v1/services/{service.slug}/keys/", {"environment": "dev"})
        work()
        version = KeyVersion.objects.select_related("key__environment").get(key__service=service)
        leak = open_version(version).expose()
        answer = world.lead.post(PATH, {"leak": leak, "mode": "kill", "reason": "x"})
        assert [item["status"] for item in answer.json()["items"]] == ["started"]

    def test_a_leak_of_another_team_or_of_nobody_finds_nothing(self, world: World) -> None:
        secret = new_secret()
        world.key("prod", secret=secret, team=world.billing)
        for leak in (secret, new_secret()):
            assert world.lead.post(PATH, {"leak": leak, "mode": "kill", "reason": "x"}).json()["items"] == []


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
