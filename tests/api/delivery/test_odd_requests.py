"""What the catalogue of inputs does not list: framing, spellings of names, instances, and what is logged."""

from __future__ import annotations

import re

import pytest

from keyvault.domain import OrganisationRole
from tests.api.conftest import Server
from tests.api.delivery.world import World
from tests.api.wire import Reply, raw
from tests.conftest import Tell
from tests.inputs.table import MINT, Table, new_person
from tests.integration.processes import wait_for


@pytest.fixture
def table(world: World) -> Table:
    return Table(world, new_person(OrganisationRole.ADMIN))


class TestFraming:
    """One request has one end, whoever reads it."""

    def test_a_length_beside_chunks_does_not_count(self, table: Table) -> None:
        for framing in (
            ("Content-Length: 4", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ):
            head = ("Content-Type: application/json", *framing)
            body = '10\r\n{"expires_in":61}\r\n0\r\n\r\n'.replace("10", "11")
            reply = table.raw(table.lines(f"POST {MINT} HTTP/1.1", *head, body=body))
            assert (reply.status, reply.json["expires_in"]) == (201, 61)

    def test_what_follows_a_request_needs_a_credential_of_its_own(self, world: World) -> None:
        smuggled = f"GET {world.path} HTTP/1.1\r\nHost: 127.0.0.1:{world.server.port}\r\n\r\n"
        body = f"0\r\n\r\n{smuggled}"
        head = (
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Transfer-Encoding: chunked",
        )
        lines = Table(world, "").lines(f"POST {MINT} HTTP/1.1", *head, body=body)
        reply = raw(world.server.port, lines)
        assert reply.status == 400
        assert world.secret.encode() not in reply.body
        assert world.deliveries() == []

    @pytest.mark.parametrize(
        "framing",
        [
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding: chunked, identity",),
            ("Transfer-Encoding: gzip",),
            ("Content-Length: 2", "Content-Length: 3"),
            ("Content-Length: 2, 3",),
            ("Content-Length: +2",),
            ("Content-Length: -1",),
            ("Content-Length: 0x2",),
            ("Content-Length: 2", "X-A : 1"),
            ("Content-Length: 2", "X-A: 1\r\n folded"),
            ("Content-Length: 2", "X-A: a\x00b"),
            ("Content-Length: 2", "X\x00A: b"),
        ],
        ids=str,
    )
    def test_a_frame_that_is_doubtful_is_refused_below_us(
        self, table: Table, framing: tuple[str, ...]
    ) -> None:
        head = ("Content-Type: application/json", *framing)
        table.bare(table.raw(table.lines(f"POST {MINT} HTTP/1.1", *head, body="{}")), 400)

    @pytest.mark.parametrize(
        "line",
        [
            "GET {} HTTP/2.0",
            "GET {} HTTP/1.2",
            "GET {}",
            "GE\x00T {} HTTP/1.1",
            "GET /v1/a b/ HTTP/1.1",
            "\x16\x03\x01",
        ],
    )
    def test_a_first_line_that_is_none(self, table: Table, line: str) -> None:
        table.bare(table.raw(table.lines(line.format(table.path))), 400)

    def test_another_protocol_is_not_spoken(self, table: Table) -> None:
        for upgrade in ("websocket", "h2c", "TLS/1.0"):
            head = ("Connection: Upgrade", f"Upgrade: {upgrade}")
            assert table.raw(table.lines("GET /v1/auth/whoami/ HTTP/1.1", *head)).status == 200

    def test_a_chunk_that_lies_about_its_size(self, table: Table) -> None:
        head = ("Content-Type: application/json", "Transfer-Encoding: chunked")
        for body in ("zz\r\n{}\r\n0\r\n\r\n", "-2\r\n{}\r\n0\r\n\r\n", f"{'f' * 17}\r\n"):
            for path in (MINT, "/v1/teams/"):
                reply = table.raw(table.lines(f"POST {path} HTTP/1.1", *head, body=body))
                table.refused(reply, 400, "validation_error")


def spellings(name: str) -> list[str]:
    """Twenty other ways to write a name, as they would stand in a path."""
    return [
        name.upper(),
        name.title(),
        name[:1].upper() + name[1:],
        f"{name}%20",
        f"%20{name}",
        f"{name}+",
        f"{name}.",
        f"{name}%00",
        f"{name}%0a",
        f"{name}%09",
        f"{name}%E2%80%8B",
        f"%EF%BB%BF{name}",
        f"%{ord(name[0]):02x}{name[1:]}",
        f"%25{ord(name[0]):02x}{name[1:]}",
        f"{name};v=1",
        f"{name},",
        f"./{name}",
        f"x/../{name}",
        f"/{name}",
        name.replace("-", "_") if "-" in name else f"{name}_",
        name.replace("-", "%E2%80%90") if "-" in name else f"{name}%CC%81",
        f"%EF%BD%81{name}",
        f"{name}~",
        f"{name}@",
    ]


class TestSpellings:
    """A rule that compares names and a look-up that finds them must never read them differently."""

    def test_a_name_has_one_spelling(self, table: Table, tell: Tell) -> None:
        world, tried = table.world, 0
        service, environment = world.service.slug, world.environment.slug
        team, consumer = world.service.team.slug, world.consumer.slug
        token = str(world.token_row.id)
        asked: list[tuple[str, str]] = [
            (f"/v1/keys/{{}}/{environment}/", service),
            (f"/v1/keys/{service}/{{}}/", environment),
            (f"/v1/keys/{{}}/{environment}/watch/", service),
            ("/v1/teams/{}/", team),
            ("/v1/services/{}/", service),
            ("/v1/environments/{}/", environment),
            ("/v1/providers/{}/", "removit"),
            ("/v1/policies/{}/", "standard"),
            ("/v1/consumers/{}/", consumer),
            (f"/v1/consumers/{consumer}/tokens/{{}}/", token),
        ]
        for pattern, name in asked:
            ask = table.consumer if pattern.startswith("/v1/keys") else table.person
            for spelled in set(spellings(name)) - {name}:
                reply: Reply = ask("GET", pattern.format(spelled))
                tried += 1
                assert reply.status in (400, 404), (pattern, spelled, reply.status)
                assert reply.code in ("malformed_path", "not_found"), (pattern, spelled, reply.code)
        assert world.deliveries() == []
        tell("spellings of names refused", {"names": len(asked), "spellings": tried})

    def test_a_token_has_one_spelling(self, table: Table) -> None:
        token = table.world.token
        others = (
            token.upper(), token.lower(), token.swapcase(), token.replace("_", "-"), token[::-1],
            token.replace("ktc", "KTC"), token.replace("ktc", "ktu"), token.replace("ktc", "ktk"),
            token.replace("prod", "dev"), token.replace("prod", "PROD"), f"{token}{token}", token[:-6],
            f"{token[:-6]}000000", f"{token}=", f"{token}.", f"{token}%00", f"{token};", f"{token}\xa0",
            f"\xef\xbb\xbf{token}", f"{token}#",
        )  # fmt: skip
        for other in others:
            if other == token:
                continue
            reply = table.anonymous("GET", table.path, ("X-API-Key", other))
            table.refused(reply, 401, "invalid_api_key", sent=other)
        assert table.world.deliveries() == []

    def test_names_in_a_body_have_one_spelling(self, table: Table) -> None:
        world = table.world
        grant = {
            "consumer": world.consumer.slug,
            "service": world.service.slug,
            "environment": world.environment.slug,
            "verbs": ["read"],
        }
        for field in ("consumer", "service", "environment"):
            name = str(grant[field])
            for other in (
                name.upper(),
                f" {name}",
                f"{name} ",
                f"{name}\n",
                f"{name}\u200b",
                f"{name}\u0301",
                f"{name}/",
            ):
                reply = table.person("POST", "/v1/grants/", {**grant, field: other})
                table.invalid(reply, field, sent=other)


class TestInstances:
    def test_two_names_for_one_instance(self, world: World, table: Table) -> None:
        table.invalid(world.get("?instance=a", ("X-Instance-ID", "b")), "instance")
        table.invalid(world.get("", ("X-Instance-ID", "a"), ("X-Instance-ID", "b")), "instance")
        assert world.get("?instance=a", ("X-Instance-ID", "a")).status == 200

    @pytest.mark.parametrize("name", ["a b", "<script>", "a/b", "", "\xe9", "x" * 129])
    def test_odd_instances_in_the_header(self, world: World, table: Table, name: str) -> None:
        table.invalid(world.get("", ("X-Instance-ID", name)), "instance", sent=name)


def test_no_answer_tells_what_the_server_is_made_of(installed: Server) -> None:
    """Whatever is sent: no trace, no class name, no SQL."""
    for target in ("/v1/keys/a/b/?version=%00", "/v1/keys/a/b/watch/?etag=%00", "/v1/keys/?cursor=%00"):
        body = installed.send("GET", target, ("X-API-Key", "x")).body.decode()
        assert not re.search(r"Traceback|django|psycopg|sqlite|SELECT|Error\b", body)


def test_a_path_makes_one_line_in_the_log(table: Table) -> None:
    """Neither a line break nor a colour gets there as it is."""
    mark = table.world.service.slug[-8:]
    for path in (f"/{mark}%0d%0afake%1b[31m", f"/v1/{mark}%0a/", f"/accounts/{mark}%E2%80%A8x/"):
        table.consumer("GET", path)

    def written() -> list[str]:
        lines = table.server.log.read_text("utf-8").split("\n")[:-1]
        told = [line for line in lines if mark in line and '"path"' in line]
        return [line for line in told if "fake" in line or "accounts" in line]

    # A line is written when its answer has left.
    wait_for(lambda: len(written()) >= 2, "both are in the log")
    told = written()
    assert all(line.startswith("{") and line.endswith("}") and line.isprintable() for line in told)
