"""/v1/providers/"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from django.db import connections

from keyvault.keystore import open_admin_secret
from keyvault.models import Provider
from tests.api.management.world import World, new_secret, problem
from tests.hostile_urls import BY_CODE, LOOKED_UP, SCHEMES

ISSUE = {"method": "POST", "path": "/keys", "body": {"name": "{label}"}, "secret": "/key", "id": "/id"}
PROBE = {"method": "GET", "path": "/me", "accepted": [200], "rejected": [401]}


def body(**changes: Any) -> dict[str, Any]:
    return {
        "slug": "maker",
        "name": "Maker",
        "base_url": "https://api.maker.example.com",
        "auth": {"header": "Authorization", "scheme": "Token"},
        "driver": "http",
        "driver_config": {"issue": ISSUE},
        "probe": PROBE,
        "errors": "flat",
        "key_affine": True,
        "max_keys": 2,
        **changes,
    }


class TestProviders200:
    def test_the_presets_are_there_for_everybody(self, world: World) -> None:
        slugs = [item["slug"] for item in world.stranger.get("/v1/providers/").json()["items"]]
        assert slugs == ["backgroundcut", "backgrounderase", "internal", "removebgvideo", "removit"]

    def test_one(self, world: World) -> None:
        shown = world.viewer.get("/v1/providers/backgroundcut/").json()
        assert shown["auth"] == {"header": "Authorization", "scheme": "Token"}
        assert (shown["derived_token_life"], shown["admin_secret_set"]) == ("PT10M", False)

    def test_an_administrator_changes_fields_and_the_credential_is_kept(self, world: World) -> None:
        secret = new_secret()
        config = {"issue": ISSUE}
        world.admin.post("/v1/providers/", body(driver_config={**config, "admin_secret": secret}))
        answer = world.admin.patch(
            "/v1/providers/maker/", {"name": "New", "max_job_age": "PT2H", "driver_config": config}
        )
        assert answer.status_code == 200
        assert (answer.json()["name"], answer.json()["max_job_age"]) == ("New", "PT2H")
        stored = open_admin_secret(Provider.objects.get(slug="maker"))
        assert stored is not None
        assert stored.expose() == secret


class TestProviders201:
    def test_an_administrator_describes_one(self, world: World) -> None:
        answer = world.admin.post("/v1/providers/", body())
        assert answer.status_code == 201
        shown = answer.json()
        assert {name: shown[name] for name in body()} == body()

    def test_the_management_credential_is_sealed_and_never_shown(self, world: World) -> None:
        secret = new_secret()
        answer = world.admin.post(
            "/v1/providers/", body(driver_config={"issue": ISSUE, "admin_secret": secret})
        )
        assert answer.json()["admin_secret_set"] is True
        assert secret not in answer.content.decode()
        row = Provider.objects.get(slug="maker")
        assert "admin_secret" not in row.driver_config
        stored = open_admin_secret(row)
        assert stored is not None
        assert stored.expose() == secret
        assert secret not in world.admin.get("/v1/providers/maker/").content.decode()

    def test_the_least_that_is_needed(self, world: World) -> None:
        answer = world.admin.post("/v1/providers/", {"slug": "ours", "driver": "generated"})
        assert answer.status_code == 201
        assert answer.json()["name"] == "ours"

    def test_a_development_host_from_the_allow_list(self, world: World, settings: Any) -> None:
        settings.KEYTURN_EGRESS_ALLOW = frozenset({"127.0.0.1:9000"})
        answer = world.admin.post("/v1/providers/", body(base_url="http://127.0.0.1:9000"))
        assert answer.status_code == 201


class TestProviders400:
    def test_addresses_that_must_not_be_called(self, world: World, settings: Any) -> None:
        settings.KEYTURN_API_RATE = "100000/min"
        world.admin.post("/v1/providers/", body(slug="stands"))
        before = Provider.objects.count()
        refused = {**BY_CODE, **LOOKED_UP, "https://api.example.com?key=1": "url_invalid"}
        for number, (url, code) in enumerate(refused.items()):
            answers = [world.admin.post("/v1/providers/", body(base_url=url))]
            if url in LOOKED_UP or url in SCHEMES:
                once = {"Idempotency_Key": f"n{number}"}
                answers.append(world.admin.post("/v1/providers/", body(base_url=url), **once))
                answers.append(world.admin.patch("/v1/providers/stands/", {"base_url": url}))
            for answer in answers:
                error = problem(answer)
                assert (error["code"], list(error["fields"])) == (code, ["base_url"]), url
                assert not url or url not in answer.content.decode()
        assert Provider.objects.count() == before
        assert Provider.objects.get(slug="stands").base_url == body()["base_url"]

    def test_several_problems_are_named_together(self, world: World) -> None:
        answer = world.admin.post("/v1/providers/", body(base_url="http://a.example.com", probe={}))
        assert problem(answer)["code"] == "validation_error"
        assert set(problem(answer)["fields"]) == {"base_url", "probe"}

    def test_an_address_that_stands_is_not_looked_up_again(self, world: World) -> None:
        world.admin.post("/v1/providers/", body(slug="gone"))
        Provider.objects.filter(slug="gone").update(base_url="https://missing.example.com")
        change = {"base_url": "https://missing.example.com", "name": "Still there"}
        assert world.admin.patch("/v1/providers/gone/", change).status_code == 200

    def test_where_names_are_not_looked_up_the_call_decides(self, world: World, settings: Any) -> None:
        settings.KEYTURN_EGRESS_LOOKUP = False
        answer = world.admin.post("/v1/providers/", body(base_url="https://missing.example.com"))
        assert answer.status_code == 201

    def test_nobody_looks_names_up_by_asking_for_what_they_may_not(self, world: World) -> None:
        answer = world.lead.post("/v1/providers/", body(base_url="https://missing.example.com"))
        assert problem(answer)["code"] == "permission_denied"

    def test_no_name_is_looked_up_in_a_transaction(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = connections["default"]
        system, depths = socket.getaddrinfo, []

        def noting(*args: Any, **more: Any) -> Any:
            depths.append(len(held.savepoint_ids))
            return system(*args, **more)

        monkeypatch.setattr(socket, "getaddrinfo", noting)
        created = world.admin.post("/v1/providers/", body(), Idempotency_Key="once")
        changed = world.admin.patch("/v1/providers/maker/", {"base_url": "https://other.example.com"})
        assert (created.status_code, changed.status_code) == (201, 200)
        # The test itself is in one.
        assert depths == [len(held.savepoint_ids)] * 2

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("driver", "vault"),
            ("driver", 5),
            ("driver_config", {"issue": {**ISSUE, "path": "https://evil.example.com/"}}),
            ("driver_config", {"issues": ISSUE}),
            ("driver_config", {"disable": {"method": "POST", "path": "/keys/{id}/off"}}),
            ("driver_config", []),
            ("driver_config", {"issue": ISSUE, "admin_secret": "YOUR_API_KEY"}),
            ("driver_config", {"issue": ISSUE, "admin_secret": 5}),
            ("driver_config", {"issue": ISSUE, "admin_secret": ""}),
            ("probe", {**PROBE, "method": "get"}),
            ("probe", {**PROBE, "accepted": [401]}),
            ("probe", {**PROBE, "extra": 1}),
            ("probe", "GET /"),
            ("errors", "deep"),
            ("key_affine", "true"),
            ("key_affine", 1),
            ("max_keys", 0),
            ("max_keys", "2"),
            ("max_keys", 2.0),
            ("auth", {"header": "Bad Header"}),
            ("auth", {"header": "X-Key", "scheme": "two words"}),
            ("auth", {}),
            ("max_job_age", 3600),
            ("max_job_age", "P9000D"),
            ("derived_token_life", "P31D"),
            ("name", ""),
            ("name", "a\nb"),
            ("slug", "internal"),
            ("slug", "No"),
        ],
    )
    def test_a_description_that_cannot_be(self, world: World, field: str, value: object) -> None:
        error = problem(world.admin.post("/v1/providers/", body(**{field: value})))
        assert error["code"] == "validation_error"
        assert any(name.partition(".")[0] == field for name in error["fields"])
        assert not Provider.objects.filter(slug="maker").exists()

    def test_a_driver_without_configuration_takes_none(self, world: World) -> None:
        error = problem(world.admin.post("/v1/providers/", body(driver="manual")))
        assert "driver_config" in error["fields"]

    def test_a_change_must_leave_the_whole_sound(self, world: World) -> None:
        world.admin.post("/v1/providers/", body())
        error = problem(world.admin.patch("/v1/providers/maker/", {"driver": "manual"}))
        assert "driver_config" in error["fields"]
        assert Provider.objects.get(slug="maker").driver == "http"


class TestProviders403:
    def test_only_administrators_write(self, world: World) -> None:
        for person in (world.lead, world.operator, world.viewer, world.auditor):
            assert problem(person.post("/v1/providers/", body()))["code"] == "permission_denied"
            assert person.patch("/v1/providers/internal/", {"name": "x"}).status_code == 403


class TestProviders404:
    def test_an_unknown_one(self, world: World) -> None:
        assert world.admin.get("/v1/providers/nothing/").status_code == 404
        assert world.admin.patch("/v1/providers/nothing/", {"name": "x"}).status_code == 404
