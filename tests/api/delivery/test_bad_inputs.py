"""Bad inputs on the consumer paths, and the answer to each. B01 to B65: rows of the catalogue of inputs."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Callable

import pytest

from tests.api.conftest import Server
from tests.api.delivery.world import World
from tests.api.wire import Reply, exchange

Make = Callable[..., World]
MINT = "/v1/auth/access-token/"


def mint(world: World, body: bytes, *headers: tuple[str, str]) -> Reply:
    return world.send("POST", MINT, *headers, body=body)


def anonymous(world: World, *headers: tuple[str, str]) -> Reply:
    return world.server.send("GET", world.path, *headers)


def refused(reply: Reply, status: int, code: str) -> None:
    """The whole envelope, and nothing but it."""
    assert (reply.status, reply.code) == (status, code)
    assert reply.error["status"] == status
    assert reply.error["request_id"] == reply.headers["x-request-id"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in reply.headers) == (status == 401)


class TestCredentials:
    @pytest.mark.parametrize(
        "headers",
        [
            (),
            (("X-API-Key", ""),),
            (("X-API-Key", "   "),),
            (("Authorization", ""),),
            (("Authorization", "Token"),),
            (("Authorization", "Token "),),
            (("Authorization", "Bearer    "),),
            (("Authorization", "AccessToken"),),
            (("X-API-Key", ""), ("Authorization", "Token")),
        ],
        ids=str,
    )
    def test_b01_b02_none_or_blank(self, world: World, headers: tuple[tuple[str, str], ...]) -> None:
        refused(anonymous(world, *headers), 401, "missing_api_key")

    @pytest.mark.parametrize(
        ("wrapped", "hint"), [('"{}"', "quotes"), ("'{}'", "quotes"), ("{} {}", "spaces")]
    )
    def test_b04_pasted_with_something_around_it(self, world: World, wrapped: str, hint: str) -> None:
        for header in (("X-API-Key", "{}"), ("Authorization", "Bearer {}")):
            reply = anonymous(world, (header[0], header[1].format(wrapped.replace("{}", world.token))))
            refused(reply, 401, "invalid_api_key")
            assert hint in reply.error["message"]
            assert world.token not in reply.body.decode()

    @pytest.mark.parametrize(
        "text", ["YOUR_API_KEY", "your-token-here", "<token>", "${KEYTURN_TOKEN}", "xxxxxxxx"]
    )
    def test_b05_a_placeholder(self, world: World, text: str) -> None:
        reply = anonymous(world, ("X-API-Key", text))
        refused(reply, 401, "invalid_api_key")
        assert "placeholder" in reply.error["message"]
        assert text not in reply.body.decode()

    @pytest.mark.parametrize("text", ["é", "\xff", "ktc_prod_\xff", "\xff" * 70])
    def test_b06_bytes_that_are_no_ascii(self, world: World, text: str) -> None:
        refused(anonymous(world, ("X-API-Key", text)), 401, "invalid_api_key")
        refused(anonymous(world, ("Authorization", f"AccessToken {text}")), 401, "invalid_access_token")

    def test_b07_two_credentials_or_one_header_twice(self, world: World) -> None:
        bearer = ("Authorization", f"Bearer {world.token}")
        for headers in (
            (world.auth, bearer),
            (world.auth, world.auth),
            (bearer, bearer),
            (world.auth, ("x-api-key", "")),
            (world.auth, ("Authorization", "Basic YTpi")),
        ):
            refused(anonymous(world, *headers), 400, "ambiguous_credentials")

    @pytest.mark.parametrize(
        "name", ["api_key", "API-KEY", "apikey", "token", "access_token", "x-api-key", "key"]
    )
    def test_b08_in_the_query(self, world: World, name: str) -> None:
        for target in (
            f"{world.path}?{name}=something",
            f"{world.path}watch/?{name}=x",
            f"/v1/keys/?{name}=",
        ):
            refused(world.send("GET", target), 400, "credential_in_url")

    def test_b08_in_the_query_under_another_name(self, world: World) -> None:
        for text in (world.token, world.token.replace("_", "%5F")):
            reply = world.send("GET", f"{world.path}?instance={text}")
            refused(reply, 400, "credential_in_url")
            assert world.token not in reply.body.decode()

    @pytest.mark.parametrize("scheme", ["Basic", "Digest", "ApiKey", "Tokens", "Bearer\t"])
    def test_b09_another_scheme(self, world: World, scheme: str) -> None:
        refused(anonymous(world, ("Authorization", f"{scheme} {world.token}")), 401, "invalid_api_key")

    def test_b09_no_scheme(self, world: World) -> None:
        refused(anonymous(world, ("Authorization", world.token)), 401, "invalid_api_key")

    def test_b10_a_very_long_header(self, world: World) -> None:
        reply = anonymous(world, ("Authorization", "Bearer " + "a" * 64_000))
        assert reply.status in (401, 431)
        reply = anonymous(world, ("Authorization", "AccessToken " + "a.b." + "c" * 64_000))
        assert reply.status in (401, 431)

    def test_an_issued_key_is_no_token_of_a_consumer(self, world: World) -> None:
        refused(anonymous(world, ("X-API-Key", world.token.replace("ktc", "ktk"))), 401, "invalid_api_key")


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b'{"expires_in": 60,}',
            b"{'expires_in': 60}",
            b'{"expires_in": 60} {}',
            b'\xef\xbb\xbf{"expires_in": 60}',
            '{"expires_in": 60}'.encode("utf-16"),
            b'{"paths": ["\xff"]}',
            b'{"expires_in": 060}',
            b'{"expires_in": 1_0}',
            b'{"expires_in": +60}',
            b" ",
        ],
    )
    def test_b11_no_json(self, world: World, body: bytes) -> None:
        refused(mint(world, body), 400, "malformed_json")

    @pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"60", b"null", b"true", b"NaN"])
    def test_b12_no_object(self, world: World, body: bytes) -> None:
        refused(mint(world, body), 400, "validation_error")

    @pytest.mark.parametrize("depth", [33, 5_000, 30_000])
    def test_b13_deep_nesting(self, world: World, depth: int) -> None:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            if depth * len(opening + closing) > 64_000:
                continue
            refused(mint(world, opening * depth + b"1" + closing * depth), 400, "malformed_json")
        refused(mint(world, b"[" * depth), 400, "malformed_json")

    def test_b13_brackets_in_a_string_are_no_nesting(self, world: World) -> None:
        body = json.dumps({"paths": ["[" * 100 + '"' + "{" * 50]}).encode()
        refused(mint(world, body), 400, "validation_error")

    @pytest.mark.parametrize("size", [64 * 1024 + 1, 3 * 1024 * 1024])
    def test_b14_too_large(self, world: World, size: int) -> None:
        refused(mint(world, b" " * size), 413, "payload_too_large")

    def test_b14_the_largest_body_that_is_read(self, world: World) -> None:
        assert mint(world, b"{}" + b" " * (64 * 1024 - 2)).status == 201

    def test_b14_in_pieces_of_unknown_length(self, world: World) -> None:
        with socket.create_connection(("127.0.0.1", world.server.port), timeout=30) as caller:
            head = f"POST {MINT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {world.token}\r\n"
            head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            caller.sendall(head.encode() + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 3)
            assert caller.recv(64).startswith(b"HTTP/1.1 413")

    def test_b15_a_number_of_5000_digits(self, world: World) -> None:
        refused(mint(world, b'{"expires_in": ' + b"9" * 5_000 + b"}"), 400, "validation_error")

    @pytest.mark.parametrize(
        "body", [b'{"expires_in":600,"expires_in":1}', b'{"expires_in":1,"expires\\u005fin":1}']
    )
    def test_b16_a_name_twice(self, world: World, body: bytes) -> None:
        refused(mint(world, body), 400, "malformed_json")

    def test_b17_unknown_fields(self, world: World) -> None:
        refused(mint(world, b'{"expires_in": 60, "admin": true}'), 400, "unknown_field")
        pasted = "sk_live_4f9a0c"
        reply = mint(world, json.dumps({pasted: 1}).encode())
        refused(reply, 400, "unknown_field")
        assert pasted not in reply.body.decode()

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "0",
                "601",
                "-1",
                "null",
                '""',
                "[60]",
                "true",
                "60.5",
                "NaN",
                "Infinity",
                "-Infinity",
                "1e400",
            ),
            *('"60"', '" 60 "', '"６０"', '"1_0"', '"+60"', "60.0", "1e1", "{}"),
        ],
    )
    def test_b18_b19_expires_in(self, world: World, text: str) -> None:
        reply = mint(world, f'{{"expires_in": {text}}}'.encode())
        refused(reply, 400, "validation_error")
        assert list(reply.error["fields"]) == ["expires_in"]

    @pytest.mark.parametrize("text", ["1", "600"])
    def test_b18_the_ends_of_the_range(self, world: World, text: str) -> None:
        assert mint(world, f'{{"expires_in": {text}}}'.encode()).status == 201

    def test_b20_no_paths_means_all_of_the_parents(self, world: World) -> None:
        assert mint(world, b"{}").status == 201

    @pytest.mark.parametrize(
        "paths",
        [
            *([], "*", {"a": 1}, [["*"]], [1], [True], [None], [""], None, 7),
            ["*"] * 21,
            ["/v1/" + "a" * 197],
            [f"/v1/{'a' * 180}{n}/" for n in range(12)],
            *(["**"], ["/v1/[a]*"], ["/v1/../*"], ["/v1//x"], ["v1/keys/*"], ["/v1/%2e"], ["/v1/\x00"]),
            *(["/admin/*"], ["/v1/keys/?"], ["/v1/é"], ["/v1/\ud800"], ["/v1/a b"], ["/v1/keys/\n"]),
        ],
        ids=lambda paths: str(paths)[:24].encode("ascii", "replace").decode(),
    )
    def test_b21_to_b24_paths(self, world: World, paths: object) -> None:
        reply = mint(world, json.dumps({"paths": paths}).encode())
        refused(reply, 400, "validation_error")
        assert list(reply.error["fields"]) == ["paths"]

    @pytest.mark.parametrize(
        "kind",
        [
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "application/json; charset=bogus",
            "application/json; charset=utf-16",
            "application/json; version=1",
            "application/jsonx",
        ],
    )
    def test_b44_b46_another_kind_of_body(self, world: World, kind: str) -> None:
        refused(mint(world, b"{}", ("Content-Type", kind)), 415, "unsupported_media_type")

    def test_b44_a_compressed_body(self, world: World) -> None:
        refused(
            mint(world, gzip.compress(b"{}"), ("Content-Encoding", "gzip")), 415, "unsupported_media_type"
        )

    @pytest.mark.parametrize(
        "kind", ["application/json", "Application/JSON; Charset=UTF-8", 'application/json;charset="utf-8"']
    )
    def test_b44_spellings_of_json(self, world: World, kind: str) -> None:
        assert mint(world, b"{}", ("Content-Type", kind)).status == 201


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v1/keys/a%2Fb/prod/",
            "/v1/keys/a/%2e%2e/",
            "/v1/keys/a/../prod/",
            "/v1/keys/a/./prod/",
            "/v1/keys/a%00b/prod/",
            "/v1/keys/a/prod%0a/",
            "/v1/keys//prod/",
            "/v1/keys/a/prod;x=1/",
            "/v1/keys/a\\b/prod/",
            "/v1/keys/a/prod%2f",
            "/v1//keys/",
            "/v1/keys/%61/prod/",
            "/v1/auth/whoami%2f",
        ],
    )
    def test_b30_to_b34_another_spelling(self, world: World, path: str) -> None:
        refused(world.send("GET", path), 400, "malformed_path")

    def test_b34_the_path_is_looked_at_before_the_credential(self, world: World) -> None:
        refused(world.server.send("GET", "/v1/keys/a%00b/prod/"), 400, "malformed_path")

    def test_b35_nothing_is_folded(self, world: World) -> None:
        refused(world.send("GET", world.path.replace("/prod/", "/PROD/")), 404, "not_found")
        refused(world.send("GET", world.path.replace("service", "Service")), 404, "not_found")
        assert world.send("GET", world.path.replace("/v1/", "/V1/")).status == 404

    @pytest.mark.parametrize("path", ["/v1/keys", "/v1/auth/whoami", "/v1/auth/access-token"])
    def test_b36_a_missing_slash_never_redirects(self, world: World, path: str) -> None:
        for method, body in (("GET", None), ("POST", b"{}")):
            refused(world.send(method, path, body=body), 404, "not_found")
        assert world.send("GET", world.path.rstrip("/")).status == 404

    @pytest.mark.parametrize("method", ["PUT", "TRACE", "PATCH", "PROPFIND", "get"])
    def test_b43_other_methods(self, world: World, method: str) -> None:
        reply = world.send(
            method, world.path, ("X-HTTP-Method-Override", "GET"), ("X-Method-Override", "GET")
        )
        refused(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == "GET, HEAD"


class TestQueries:
    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("?version=abc", "validation_error"),
            ("?version=0", "validation_error"),
            ("?version=-1", "validation_error"),
            ("?version=1.0", "validation_error"),
            ("?version=%EF%BC%91", "validation_error"),
            ("?version=99999999999999999999999", "validation_error"),
            ("?version=CURRENT", "validation_error"),
            ("?version=", "validation_error"),
            ("?format=yaml", "validation_error"),
            ("?format=", "validation_error"),
            ("?instance=", "validation_error"),
            ("?instance=a%20b", "validation_error"),
            ("?instance=a%00", "validation_error"),
            ("?instance=a%0a", "validation_error"),
            ("?instance=%E2%80%AEa", "validation_error"),
            ("?instance=%ff", "validation_error"),
            ("?instance=" + "a" * 129, "validation_error"),
            ("?instance=a/b", "validation_error"),
            ("?instance=a&instance=b", "validation_error"),
            ("?instance=a&instance=a", "validation_error"),
            ("?instance", "validation_error"),
            ("?instance=" + "a" * 5_000, "validation_error"),
            ("?&&", "validation_error"),
            ("?=x", "unknown_field"),
            ("?weight=100", "unknown_field"),
            ("?Instance=a", "unknown_field"),
            ("?instance=a;version=1", "validation_error"),
        ],
    )
    def test_b60_odd_parameters(self, world: World, query: str, code: str) -> None:
        refused(world.get(query), 400, code)
        assert world.deliveries() == []

    def test_two_names_for_one_instance(self, world: World) -> None:
        refused(world.get("?instance=a", ("X-Instance-ID", "b")), 400, "validation_error")
        refused(world.get("", ("X-Instance-ID", "a"), ("X-Instance-ID", "b")), 400, "validation_error")
        assert world.get("?instance=a", ("X-Instance-ID", "a")).status == 200

    @pytest.mark.parametrize("name", ["a b", "<script>", "a/b", "", "\xe9", "x" * 129])
    def test_odd_instances_in_the_header(self, world: World, name: str) -> None:
        refused(world.get("", ("X-Instance-ID", name)), 400, "validation_error")


class TestHosts:
    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:80@evil.example", "a b"]
    )
    def test_b65_another_host(self, world: World, host: str) -> None:
        refused(exchange(world.server.port, "GET", world.path, (world.auth,), None, host), 400, "bad_host")

    def test_b65_a_forwarded_host_changes_nothing(self, world: World) -> None:
        reply = world.get("", ("X-Forwarded-Host", "evil.example"))
        assert reply.status == 200
        assert b"evil.example" not in reply.body


def test_no_answer_tells_what_the_server_is_made_of(installed: Server) -> None:
    """Whatever is sent: no trace, no class name, no SQL."""
    for target in ("/v1/keys/a/b/?version=%00", "/v1/keys/a/b/watch/?etag=%00", "/v1/keys/?cursor=%00"):
        body = installed.send("GET", target, ("X-API-Key", "x")).body.decode()
        assert not re.search(r"Traceback|django|psycopg|sqlite|SELECT|Error\b", body)
