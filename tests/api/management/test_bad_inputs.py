"""What nobody should send, beside the rows of the catalogue that ask a running server (test_inputs.py)."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.errors import KeyServiceUnavailable
from keyvault.services import people
from tests.api.management.world import World, key_path, problem

TEAMS = "/v1/teams/"


class TestTexts:
    @pytest.mark.parametrize(
        "name", ["<script>alert(1)</script>", "Équipe", "团队 7", "a'; DROP TABLE", "👩"]
    )
    def test_b47_names_that_are_fine_come_back_as_they_are(self, world: World, name: str) -> None:
        assert world.admin.post(TEAMS, {"slug": "a", "name": name}).json()["name"] == name

    @pytest.mark.parametrize(
        "slug",
        [
            "A",
            "-a",
            "a_b",
            "a.b",
            "a/b",
            "a b",
            "a\n",
            "ä",
            "ａ",
            "",
            "x" * 64,
            5,
            True,
            None,
            ["a"],
            "%2e",
            "..",
        ],
    )
    def test_slugs(self, world: World, slug: Any) -> None:
        error = problem(world.admin.post(TEAMS, {"slug": slug}))
        assert (error["code"], list(error["fields"])) == ("validation_error", ["slug"])


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v1/teams/a%2Fb/",
            "/v1/teams/%2e%2e/",
            "/v1/teams/../",
            "/v1/teams/./",
            "/v1/teams/a%00b/",
            "/v1/teams/imaging%0a/",
            "/v1//teams/",
            "/v1/teams//",
            "/v1/teams/imaging;x=1/",
            "/v1/teams/im\\aging/",
        ],
    )
    def test_b30_to_b34_paths_with_two_spellings(self, world: World, path: str) -> None:
        answer = world.lead.client.generic("GET", path, headers={"X-API-Key": world.lead.token}, RAW_URI=path)
        assert problem(answer)["code"] == "malformed_path"

    def test_b37_unknown_and_not_yours_are_the_same(self, world: World) -> None:
        key = world.key("dev")
        bodies = {
            str({**problem(answer), "request_id": ""})
            for answer in (
                world.stranger.get(key_path(key, "versions/")),
                world.stranger.get("/v1/keys/nothing/dev/versions/"),
                world.lead.get(f"/v1/keys/{key.service.slug}/prod/versions/"),
            )
        }
        assert len(bodies) == 1


class TestQueries:
    @pytest.mark.parametrize("path", [TEAMS + "imaging/", "/v1/schema/"])
    def test_parameters_where_none_is_known(self, world: World, path: str) -> None:
        assert problem(world.lead.get(f"{path}?x=1"))["code"] == "validation_error"
        assert problem(world.lead.post(TEAMS + "?x=1", {}))["code"] == "validation_error"

    def test_a_cursor_of_another_list(self, world: World) -> None:
        cursor = world.admin.get(f"{TEAMS}?limit=1").json()["next_cursor"]
        assert world.admin.get(f"{TEAMS}?limit=1&cursor={cursor}").status_code == 200
        assert problem(world.admin.get(f"/v1/services/?cursor={cursor}"))["code"] == "validation_error"
        changed = cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")
        assert problem(world.admin.get(f"{TEAMS}?cursor={changed}"))["code"] == "validation_error"


class TestFromBelow:
    def test_b65_a_foreign_host(self, world: World) -> None:
        answer = world.lead.get(TEAMS, Host="evil.example.com")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "bad_host"

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (IntegrityError(), "integrity_error"),
            (KeyServiceUnavailable("away"), "key_service_unavailable"),
            (OperationalError("server closed the connection"), "database_unavailable"),
        ],
    )
    @pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k"}])
    def test_b40_b41_what_is_down_is_503(
        self,
        world: World,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        code: str,
        headers: dict[str, str],
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(people, "create_team", fail)
        answer = world.admin.post(TEAMS, {"slug": "a"}, **headers)
        assert answer.status_code == 503
        assert problem(answer)["code"] == code
        assert answer["Retry-After"]
        assert "server closed" not in answer.content.decode()

    def test_a_mistake_of_ours_is_500_in_the_envelope(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("a detail that nobody may see")

        monkeypatch.setattr(people, "create_team", fail)
        world.admin.client = Client(raise_request_exception=False)
        answer = world.admin.post(TEAMS, {"slug": "a"})
        assert problem(answer)["code"] == "internal_error"
        assert "nobody may see" not in answer.content.decode()

    def test_the_callers_request_id_is_kept_if_it_is_well_formed(self, world: World) -> None:
        assert world.lead.get(TEAMS, X_Request_ID="abc-12345")["X-Request-ID"] == "abc-12345"
        assert world.lead.get(TEAMS, X_Request_ID="a b")["X-Request-ID"] != "a b"
