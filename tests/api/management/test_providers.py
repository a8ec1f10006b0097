"""/v1/providers/"""

from __future__ import annotations

from typing import Any

import pytest

from keyvault.keystore import open_admin_secret
from keyvault.models import Provider
from tests.api.management.world import World, new_secret, problem

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


URLS = [
    "http://api.example.com", "ftp://api.example.com", "file:///etc/passwd", "gopher://a.example.com",
    "javascript:alert(1)", "https://localhost", "https://127.1", "https://2130706433", "https://0x7f.1",
    "https://0177.0.0.1", "https://[::1]", "https://[::ffff:169.254.169.254]",
    "https://[64:ff9b::a9fe:a9fe]", "https://[2002:7f00:1::]", "https://169.254.169.254",
    "https://168.63.129.16", "https://metadata.google.internal", "https://①②⑦.0.0.1",
    "https://127。0。0。1", "https://user:pass@api.example.com", "https://api.example.com\\@evil.example.com",
    "https://api.example.com#@evil.example.com", "https://api.example.com:22", "https://api.example.com:99999",
    "https://api.example.com\r\nX: y", "https://api.example.com?key=1", "", "api.example.com",
]  # fmt: skip


class TestProviders400:
    @pytest.mark.parametrize("url", URLS)
    def test_addresses_that_must_not_be_called(self, world: World, url: str) -> None:
        answer = world.admin.post("/v1/providers/", body(base_url=url))
        error = problem(answer)
        assert error["code"] == "validation_error"
        assert "base_url" in error["fields"]
        assert not url or url not in answer.content.decode()

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
