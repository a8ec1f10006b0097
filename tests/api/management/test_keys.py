"""/v1/services/{service}/keys/, versions and reveal"""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyvault.integrity import verify
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Key, KeyVersion
from rotation.models import Rotation
from tests.api.management.world import World, key_path, new_secret, problem, work


def keys(world: World, provider: str = "internal") -> str:
    return f"/v1/services/{world.service(provider=provider).slug}/keys/"


def place(key: Key) -> str:
    return f"/v1/services/{key.service.slug}/keys/{key.environment.slug}/"


class TestKeys200:
    def test_keys_of_a_service_without_any_secret(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        path = f"/v1/services/{key.service.slug}/keys/"
        answer = world.viewer.get(path)
        shown = answer.json()["items"][0]
        assert (shown["environment"], shown["current"], shown["pending"]) == ("prod", 1, None)
        assert (shown["weight"], shown["policy"], shown["rotation"]) == (None, "standard", None)
        assert shown["next_rotation_at"] is not None
        assert secret not in answer.content.decode()
        assert world.viewer.get(f"{path}prod/").json() == shown

    def test_a_key_of_a_protected_environment_is_never_shown_unless_asked_for(self, world: World) -> None:
        for environment, shown in (("dev", False), ("prod", True)):
            made = world.lead.post(keys(world), {"environment": environment, "secret": new_secret()})
            assert (made.status_code, made.json()["never_shown"]) == (201, shown)
        asked = {"environment": "prod", "secret": new_secret(), "never_shown": False}
        assert world.lead.post(keys(world), asked).json()["never_shown"] is False

    def test_versions_without_any_secret(self, world: World) -> None:
        secret = new_secret()
        key = world.key(secret=secret)
        answer = world.viewer.get(key_path(key, "versions/"))
        shown = answer.json()["items"][0]
        assert (shown["version"], shown["state"], shown["label"]) == (1, "active", "current")
        assert len(shown["fingerprint"]) == 19
        assert secret not in answer.content.decode()

    def test_a_lead_tells_when_it_expires_and_its_date_follows(self, world: World) -> None:
        key = world.key("prod")
        path = place(key)
        before = world.lead.get(path).json()
        assert before["expires_at"] is None
        soon = (world.now + timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
        shown = world.lead.patch(path, {"expires_at": soon}).json()
        assert shown["expires_at"] == soon
        assert shown["due_trigger"] == "expiry"
        assert shown["next_rotation_at"] < min(soon, before["next_rotation_at"])
        event = AuditEvent.objects.get(name="key:version:expiry")
        assert event.details["version"] == 1
        verify(KeyVersion.objects.get(key=key))
        world.lead.patch(path, {"expires_at": soon})
        assert AuditEvent.objects.filter(name="key:version:expiry").count() == 1

        gone = world.lead.patch(path, {"expires_at": None}).json()
        assert (gone["expires_at"], gone["due_trigger"]) == (None, "schedule")

    def test_a_lead_changes_policy_and_visibility(self, world: World) -> None:
        key = world.key()
        path = f"/v1/services/{key.service.slug}/keys/dev/"
        shown = world.lead.patch(path, {"never_shown": True, "policy": "emergency"}).json()
        assert (shown["never_shown"], shown["policy"], shown["next_rotation_at"]) == (True, "emergency", None)
        assert Key.objects.get(pk=key.pk).never_shown


class TestKeys201:
    def test_a_secret_is_imported_sealed_and_current(self, world: World) -> None:
        secret = new_secret()
        path = keys(world, "removit")
        answer = world.lead.post(
            path, {"environment": "prod", "secret": secret, "provider_key_id": "key-77", "policy": "fast"}
        )
        assert answer.status_code == 201
        assert answer.json()["current"] == 1
        assert answer.json()["policy"] == "fast"
        assert secret not in answer.content.decode()
        version = KeyVersion.objects.select_related("key__environment").get()
        assert open_version(version).expose() == secret
        assert version.provider_key_id == "key-77"

    def test_without_a_secret_the_driver_issues_the_first_version(self, world: World) -> None:
        path = keys(world)
        made = world.lead.post(path, {"environment": "dev"}).json()
        assert made["current"] is None
        rotation = Rotation.objects.get(pk=made["rotation"])
        assert rotation.trigger == "first"
        work()
        shown = world.lead.get(f"{path}dev/").json()
        assert shown["current"] == 1
        assert shown["rotation"] is None


class TestKeys400:
    def test_without_a_secret_where_a_person_makes_the_keys(self, world: World) -> None:
        error = problem(world.lead.post(keys(world, "backgrounderase"), {"environment": "dev"}))
        assert "backgrounderase" in error["fields"]["secret"][0]
        assert not Key.objects.exists()

    @pytest.mark.parametrize(
        "secret",
        [
            "",
            " ",
            "YOUR_API_KEY",
            "abc def ghi",
            "abcdefgh\n",
            '"abcdefgh1"',
            "x" * 65_000,
            5,
            None,
            ["a"],
            "ключ",
        ],
    )
    def test_a_secret_that_is_refused_is_not_repeated(self, world: World, secret: object) -> None:
        answer = world.lead.post(keys(world, "removit"), {"environment": "dev", "secret": secret})
        error = problem(answer)
        assert "secret" in error["fields"] or answer.status_code == 413
        if isinstance(secret, str) and len(secret) > 1:
            assert secret not in answer.content.decode()
        assert not Key.objects.exists()

    def test_a_token_of_ours_is_no_secret(self, world: World) -> None:
        given = {"environment": "dev", "secret": world.lead.token}
        answer = world.lead.post(keys(world, "removit"), given)
        assert "own tokens" in problem(answer)["fields"]["secret"][0]
        assert world.lead.token not in answer.content.decode()

    def test_a_secret_of_another_environment(self, world: World) -> None:
        secret = new_secret()
        world.key("dev", secret=secret)
        answer = world.lead.post(keys(world), {"environment": "prod", "secret": secret})
        error = problem(answer)
        assert "another environment" in error["fields"]["secret"][0]
        assert not Key.objects.filter(environment__slug="prod").exists()

    def test_a_second_key_in_the_environment(self, world: World) -> None:
        key = world.key()
        answer = world.lead.post(
            f"/v1/services/{key.service.slug}/keys/", {"environment": "dev", "secret": new_secret()}
        )
        assert "environment" in problem(answer)["fields"]

    def test_an_unknown_policy(self, world: World) -> None:
        answer = world.lead.post(
            keys(world), {"environment": "dev", "secret": new_secret(), "policy": "none"}
        )
        assert "policy" in problem(answer)["fields"]

    def test_nothing_else_of_a_key_can_change(self, world: World) -> None:
        path = f"/v1/services/{world.key().service.slug}/keys/dev/"
        for body in ({"weight": 5}, {"current": 1}, {"secret": new_secret()}):
            assert problem(world.lead.patch(path, body))["code"] == "unknown_field"


class TestKeys403:
    def test_only_leads_add_and_change_keys(self, world: World) -> None:
        key = world.key()
        path = f"/v1/services/{key.service.slug}/keys/"
        for person in (world.operator, world.viewer, world.auditor):
            body = {"environment": "prod", "secret": new_secret()}
            assert person.post(path, body).status_code == 403
            assert person.patch(f"{path}dev/", {"never_shown": True}).status_code == 403

    def test_a_token_never_reveals(self, world: World) -> None:
        secret = new_secret()
        key = world.key(secret=secret)
        answer = world.lead.post(key_path(key, "reveal/"), {"reason": "incident"})
        assert problem(answer)["code"] == "reauthentication_required"
        assert secret not in answer.content.decode()
        assert not AuditEvent.objects.filter(name="key:revealed").exists()

    def test_permission_comes_before_the_reveal(self, world: World) -> None:
        path = key_path(world.key(), "reveal/")
        assert problem(world.viewer.post(path, {"reason": "x"}))["code"] == "permission_denied"
        assert problem(world.lead.post(path, {}))["code"] == "validation_error"


class TestKeys404:
    def test_a_stranger_finds_nothing(self, world: World) -> None:
        key = world.key()
        path = f"/v1/services/{key.service.slug}/keys/"
        for answer in (
            world.stranger.get(path),
            world.stranger.get(f"{path}dev/"),
            world.stranger.patch(f"{path}dev/", {"never_shown": True}),
            world.stranger.post(path, {"environment": "prod", "secret": new_secret()}),
            world.stranger.get(key_path(key, "versions/")),
            world.stranger.post(key_path(key, "reveal/"), {"reason": "x"}),
        ):
            assert problem(answer)["code"] == "not_found"

    def test_a_service_without_that_environment(self, world: World) -> None:
        key = world.key("dev")
        assert world.lead.get(f"/v1/keys/{key.service.slug}/prod/versions/").status_code == 404
        assert world.lead.get(f"/v1/services/{key.service.slug}/keys/prod/").status_code == 404


class TestExpiry400:
    def test_an_end_in_the_past(self, world: World) -> None:
        key = world.key()
        answer = world.lead.patch(place(key), {"expires_at": "2001-01-01T00:00:00Z"})
        assert (answer.status_code, problem(answer)["code"]) == (400, "validation_error")
        assert KeyVersion.objects.get(key=key).expires_at is None


class TestExpiry403:
    def test_operators_do_not_change_it(self, world: World) -> None:
        answer = world.operator.patch(place(world.key()), {"expires_at": "2999-01-01T00:00:00Z"})
        assert (answer.status_code, problem(answer)["code"]) == (403, "permission_denied")
