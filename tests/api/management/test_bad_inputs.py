"""What nobody should send, and the answer: never 500, never an echo. B.. are rows of the threat table."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.errors import KeyServiceUnavailable
from keyvault.models import Team
from keyvault.services import people
from tests.api.management.world import World, key_path, problem

TEAMS = "/v1/teams/"


def raw(world: World, body: bytes, **headers: str) -> Any:
    return world.admin.post(TEAMS, body, **headers)


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b'{"slug": "a"',
            b"{'slug': 'a'}",
            b'{"slug": "a",}',
            b'\xef\xbb\xbf{"slug": "a"}',
            '{"slug": "a"}'.encode("utf-16"),
            b'{"slug": "\xff"}',
            b'{"slug": "a", "slug": "b"}',
            b'{"name": {"a": 1, "a": 2}}',
            b"[" * 5_000,
            b"[" * 60_000,
            b'{"a":' * 40 + b"1" + b"}" * 40,
            b'{"slug": "a"} {"slug": "b"}',
            b"slug=a",
            b"\x00",
        ],
    )
    def test_b11_b13_b16_no_json(self, world: World, body: bytes) -> None:
        answer = raw(world, body)
        assert answer.status_code == 400
        assert problem(answer)["code"] == "malformed_json"

    @pytest.mark.parametrize("body", [b"", b"[]", b'"slug"', b"5", b"null", b"true", b"[{}]"])
    def test_b12_no_object(self, world: World, body: bytes) -> None:
        assert problem(raw(world, body))["code"] == "validation_error"

    @pytest.mark.parametrize("body", [b'{"slug": NaN}', b'{"slug": -Infinity}', b'{"slug": 1e999}'])
    def test_b18_no_number(self, world: World, body: bytes) -> None:
        assert raw(world, body).status_code == 400

    def test_b15_a_number_of_5000_digits(self, world: World) -> None:
        answer = raw(world, b'{"slug": ' + b"9" * 5_000 + b"}")
        assert problem(answer)["code"] == "validation_error"
        assert b"99999" not in answer.content

    def test_b14_a_body_of_3_mib(self, world: World) -> None:
        answer = raw(world, b'{"slug": "' + b"a" * 3_145_728 + b'"}')
        assert problem(answer)["code"] == "payload_too_large"

    def test_b14_a_body_of_just_over_64_kib(self, world: World) -> None:
        fits = b'{"slug": "one", "name": "One"}'
        assert raw(world, fits + b" " * (65_536 - len(fits))).status_code == 201
        assert raw(world, fits + b" " * (65_537 - len(fits))).status_code == 413

    @pytest.mark.parametrize("name", ["owner", "Slug", "slug ", "__proto__", "id", ""])
    def test_b17_an_unknown_field(self, world: World, name: str) -> None:
        answer = world.admin.post(TEAMS, {"slug": "a", name: "x"})
        assert problem(answer)["code"] == "unknown_field"
        assert not Team.objects.filter(slug="a").exists()

    def test_b17_a_secret_in_place_of_a_name_is_not_repeated(self, world: World) -> None:
        answer = world.admin.post(TEAMS, {"slug": "a", "sk_live_0123456789": ""})
        assert "sk_live" not in answer.content.decode()

    @pytest.mark.parametrize(
        "media_type",
        [
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=bogus",
            "application/json; charset=utf-16",
            "application/vnd.api+json",
            "json",
            "",
        ],
    )
    def test_b44_b46_another_media_type(self, world: World, media_type: str) -> None:
        answer = raw(world, b'{"slug": "a"}', Content_Type=media_type)
        assert problem(answer)["code"] == "unsupported_media_type"
        assert not Team.objects.filter(slug="a").exists()

    @pytest.mark.parametrize(
        "media_type", ["application/json; charset=utf-8", 'application/json;charset="UTF-8"']
    )
    def test_b46_utf_8_may_be_named(self, world: World, media_type: str) -> None:
        assert raw(world, b'{"slug": "a"}', Content_Type=media_type).status_code == 201

    def test_a_compressed_body(self, world: World) -> None:
        assert raw(world, b'{"slug": "a"}', Content_Encoding="gzip").status_code == 415


class TestTexts:
    @pytest.mark.parametrize(
        "name",
        [
            "a\u202eb",
            "a\nb",
            "a\tb",
            "a\u200bb",
            "\x00",
            "a\u0000b",
            "\ud800",
            "e\u0301",
            " a",
            "a ",
            "",
            " ",
            "x" * 121,
            "\u2028",
            "\ue000",
            5,
            True,
            None,
            ["a"],
            {"a": "b"},
        ],
    )
    def test_b47_b48_names(self, world: World, name: Any) -> None:
        answer = world.admin.post(TEAMS, {"slug": "a", "name": name})
        assert problem(answer)["code"] == "validation_error"
        assert not Team.objects.filter(slug="a").exists()

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

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/teams/IMAGING/",
            "/v1/Teams/",
            "/v1/teams/-a/",
            "/v1/teams/a_b/",
            "/v1/teams/imaging",
            "/v1/teams",
            "/v1/nothing/",
            "/v1/",
            "/v1",
            f"/v1/teams/{'x' * 64}/",
            f"/v1/teams/{'x' * 5_000}/",
            "/v1/rotations/abc/",
            "/v1/rotations/-1/",
            f"/v1/rotations/{'9' * 23}/",
            "/v1/rotations/00000000-0000-0000-0000-00000000000g/",
            "/v1/rotations/7DE1FBCC-84FF-4CA4-878C-815F7415D7D2/x/",
            "/v1/grants/1/",
        ],
    )
    def test_b35_b36_b38_b61_unknown_paths(self, world: World, path: str) -> None:
        for method in ("GET", "POST"):
            answer = world.admin.call(method, path)
            assert problem(answer)["code"] == "not_found"
            assert "Location" not in answer

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
    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=abc",
            "limit=1e9",
            "limit=1%00",
            "limit=",
            "limit=٣",
            "limit=5&limit=6",
            "limit=+5",
            "limit=1.0",
            "cursor=",
            "cursor=abc",
            "cursor=%00",
            "cursor=é",
            "cursor=" + "A" * 2_000,
            "page=2",
            "order=password",
            "format=xml",
            "a[]=1",
        ],
    )
    def test_b60_odd_parameters(self, world: World, query: str) -> None:
        answer = world.lead.get(f"{TEAMS}?{query}")
        assert problem(answer)["code"] == "validation_error"

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


class TestMethods:
    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "CONNECT", "PROPFIND"])
    def test_b43_methods_that_are_not_there(self, world: World, method: str) -> None:
        answer = world.admin.call(method, TEAMS)
        assert problem(answer)["code"] == "method_not_allowed"
        assert set(answer["Allow"].split(", ")) == {"GET", "HEAD", "POST"}

    def test_b43_a_method_cannot_be_overridden(self, world: World) -> None:
        answer = world.admin.post("/v1/teams/imaging/", {}, X_HTTP_Method_Override="DELETE")
        assert answer.status_code == 405

    def test_head_has_no_body(self, world: World) -> None:
        answer = world.lead.call("HEAD", TEAMS)
        assert answer.status_code == 200
        assert answer.content == b""

    @pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/png"])
    def test_b45_another_form_of_answer(self, world: World, accept: str) -> None:
        answer = world.lead.get(TEAMS, Accept=accept)
        assert problem(answer)["code"] == "not_acceptable"

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, */*;q=0.1", "application/*"])
    def test_b45_json_for_everybody_who_takes_it(self, world: World, accept: str) -> None:
        assert world.lead.get(TEAMS, Accept=accept).status_code == 200


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
