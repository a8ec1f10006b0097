"""B11 to B24 and B44 to B49: what stands in a body."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.inputs.table import MINT, Table, row

TEAMS = "/v1/teams/"
PROVIDER: dict[str, Any] = {"slug": "never", "driver": "manual", "base_url": "https://api.example.org"}


def _both(
    t: Table, body: bytes, code: str, *headers: tuple[str, str], status: int = 400, sent: str = ""
) -> None:
    """A consumer's path and a person's path give the same answer to the same body."""
    t.refused(t.mint(body, *headers), status, code, sent=sent)
    t.refused(t.person("POST", TEAMS, body, *headers), status, code, sent=sent)


@row("B11", "no JSON, or not in UTF-8")
def no_json(t: Table) -> None:
    for body in (
        b"{",
        b'{"slug": "a"',
        b'{"expires_in": 60,}',
        b"{'expires_in': 60}",
        b'{"expires_in": 60} {}',
        b'\xef\xbb\xbf{"expires_in": 60}',
        '{"expires_in": 60}'.encode("utf-16"),
        '{"expires_in": 60}'.encode("utf-32"),
        b'{"paths": ["\xff"]}',
        b'{"paths": ["\xed\xa0\x80"]}',
        b'{"paths": ["\xc0\xaf"]}',
        b'{"expires_in": 060}',
        b'{"expires_in": 1_0}',
        b'{"expires_in": +60}',
        b'{"expires_in": 0x3c}',
        b"expires_in=60",
        b"\x00",
        b" ",
    ):
        _both(t, body, "malformed_json")


@row("B12", "a root that is no object, or no body")
def no_object(t: Table) -> None:
    for body in (b"", b"[]", b"[{}]", b'"expires_in"', b"60", b"null", b"true", b"NaN"):
        _both(t, body, "validation_error")


@row("B13", "deep nesting")
def deep(t: Table) -> None:
    for depth in (33, 5_000, 30_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            if depth * len(opening + closing) < 64_000:
                _both(t, opening * depth + b"1" + closing * depth, "malformed_json")
        _both(t, b"[" * depth, "malformed_json")
    _both(t, b'{"a":' * 12_000, "malformed_json")
    _both(t, b"[" * 100_000, "payload_too_large", status=413)
    # Brackets in a text are no nesting.
    _both(t, json.dumps({"paths": ["[" * 100 + '"' + "{" * 50], "slug": 1}).encode(), "unknown_field")


@row("B14", "more than 64 KiB", writes=True)
def large(t: Table) -> None:
    for size in (64 * 1024 + 1, 3 * 1024 * 1024):
        _both(t, b" " * size, "payload_too_large", status=413)
    chunks = "".join(f"8000\r\n{' ' * 0x8000}\r\n" for _ in range(3)) + "0\r\n\r\n"
    head = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    for path, token in ((MINT, t.world.token), (TEAMS, t.admin)):
        text = t.lines(f"POST {path} HTTP/1.1", *head, body=chunks).replace(
            t.world.token.encode(), token.encode()
        )
        t.refused(t.raw(text), 413, "payload_too_large")
    assert t.mint(b"{}" + b" " * (64 * 1024 - 2)).status == 201


@row("B15", "a number of 5,000 digits")
def digits(t: Table) -> None:
    for number in ("9" * 5_000, "-" + "9" * 5_000, "9" * 20):
        t.invalid(t.mint(f'{{"expires_in": {number}}}'.encode()), sent=number)
        t.invalid(t.person("POST", TEAMS, f'{{"slug": {number}}}'.encode()), sent=number)
    number = "1." + "3" * 5_000
    t.invalid(t.mint(f'{{"expires_in": {number}}}'.encode()), "expires_in", sent=number)


@row("B16", "a name twice in one object")
def twice(t: Table) -> None:
    for body in (
        b'{"expires_in":600,"expires_in":1}',
        b'{"expires_in":1,"expires\\u005fin":1}',
        b'{"slug":"a","slug":"a"}',
        b'{"paths":["*"],"x":{"a":1,"a":2}}',
    ):
        _both(t, body, "malformed_json")


@row("B17", "an unknown field")
def unknown(t: Table) -> None:
    for name in ("admin", "is_staff", "Expires_in", "expires_in ", "__proto__", "constructor", ""):
        t.refused(t.mint({"expires_in": 60, name: True}), 400, "unknown_field")
    pasted = "sk_live_4f9a0c77"
    t.refused(t.mint({pasted: 1}), 400, "unknown_field", sent=pasted)
    t.refused(t.person("POST", TEAMS, {"slug": "never", pasted: 1}), 400, "unknown_field", sent=pasted)
    for name in ("id", "pk", "team", "state", "created_by", "created_at", "active_version", "weight"):
        t.refused(t.person("POST", TEAMS, {"slug": "never", name: 1}), 400, "unknown_field")


@row("B18", "expires_in outside of 1 to 600, or no number", writes=True)
def out_of_range(t: Table) -> None:
    values = [
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
        "{}",
        "false",
    ]
    for text in values:
        t.invalid(t.mint(f'{{"expires_in": {text}}}'.encode()), "expires_in")
    for text in ("1", "600"):
        assert t.mint(f'{{"expires_in": {text}}}'.encode()).status == 201


@row("B19", "expires_in that is nearly a whole number")
def nearly(t: Table) -> None:
    for text in ('"60"', '" 60 "', '"６０"', '"1_0"', '"+60"', "60.0", "1e1"):
        t.invalid(t.mint(f'{{"expires_in": {text}}}'.encode()), "expires_in")


@row("B20", "no paths: all of the parent's", writes=True)
def all_paths(t: Table) -> None:
    t.counted += 1
    reply = t.mint({})
    assert (reply.status, reply.json["expires_in"]) == (201, 60)
    assert t.use(reply.json["access_token"]).status == 200
    other = f"/v1/keys/{t.another().slug}/prod/"
    t.refused(t.use(reply.json["access_token"], other), 404, "not_found")


def _paths(t: Table, *values: object) -> None:
    for paths in values:
        sent = paths[0] if isinstance(paths, list) and paths and isinstance(paths[0], str) else ""
        t.invalid(t.mint({"paths": paths}), "paths", sent=sent if len(sent) > len("/v1/x") else "")


@row("B21", "no path in the list")
def no_path(t: Table) -> None:
    _paths(t, [])


@row("B22", "paths that are no list of texts")
def strange_paths(t: Table) -> None:
    _paths(t, "*", {"a": 1}, [["*"]], [1], [True], [None], [""], None, 7, ["*", 1])


@row("B23", "too many paths, or too long ones")
def many_paths(t: Table) -> None:
    _paths(t, ["*"] * 21, ["/v1/" + "a" * 197], [f"/v1/{'a' * 180}{n}/" for n in range(12)])


@row("B24", "paths that are no pattern")
def patterns(t: Table) -> None:
    _paths(
        t, ["**"], ["/v1/[a]*"], ["/v1/../*"], ["/v1//x"], ["v1/keys/*"], ["/v1/%2e"], ["/v1/\x00"],
        ["/admin/*"], ["/v1/keys/?"], ["/v1/é"], ["/v1/\ud800"], ["/v1/a b"], ["/v1/keys/\n"], ["/"],
        [" *"],
        ["/V1/keys/*"], ["/v1/keys/**"], ["/v1\\keys\\*"], ["*", "/v1/./x"],
    )  # fmt: skip


@row("B44", "another kind of body", writes=True)
def media_type(t: Table) -> None:
    for kind in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/vnd.api+json",
        "application/jsonx",
    ):
        _both(t, b"{}", "unsupported_media_type", ("Content-Type", kind), status=415)
    packed = gzip.compress(b'{"slug": "never"}' + b" " * 60_000)
    _both(t, packed, "unsupported_media_type", ("Content-Encoding", "gzip"), status=415)
    for kind in ("application/json", "Application/JSON; Charset=UTF-8", 'application/json;charset="utf-8"'):
        assert t.mint(b"{}", ("Content-Type", kind)).status == 201


@row("B45", "another form of answer")
def accept(t: Table) -> None:
    for kind in ("text/html", "application/xml", "image/png"):
        t.refused(t.person("GET", TEAMS, None, ("Accept", kind)), 406, "not_acceptable")
        # Consumers get JSON whatever they ask for.
        reply = t.consumer("GET", "/v1/auth/whoami/", ("Accept", kind))
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert t.person("GET", TEAMS, None, ("Accept", "text/html, */*;q=0.1")).status == 200


@row("B46", "another character set")
def charset(t: Table) -> None:
    for name in ("bogus", "utf-16", "latin-1", "utf-7", '"utf-8', "utf-8; charset=latin-1"):
        header = ("Content-Type", f"application/json; charset={name}")
        _both(t, b"{}", "unsupported_media_type", header, status=415)


@row("B47", "names that hide, turn or break", writes=True)
def texts(t: Table) -> None:
    for name in (
        "a\u202eb", "a\u2066b", "a\nb", "a\r\nb", "a\tb", "a\u200bb", "a\ufeffb", "a\u00adb", "\x00",
        "a\u0000b",
        "\ud800", "\udc00\ud800", "e\u0301", " a", "a ", "", " ", "\u00a0", "x" * 121, "\u2028",
        "\x1b[31mred",
        "\x7f", "\ue000", "\U000e0001", 5, True, None, ["a"], {"a": "b"},
    ):  # fmt: skip
        sent = name if isinstance(name, str) and len(name) > 3 else ""
        t.refused(
            t.person("POST", TEAMS, {"slug": "never", "name": name}), 400, "validation_error", sent=sent
        )
    huge = json.dumps({"slug": "never", "name": "x" * 1_048_576}).encode()
    t.refused(t.person("POST", TEAMS, huge), 413, "payload_too_large")
    # Markup is a text like any other; pages escape it.
    slug = f"markup-{t.world.service.slug[-8:]}"
    made = t.person("POST", TEAMS, {"slug": slug, "name": "<script>alert(1)</script>"})
    assert (made.status, made.json["name"]) == (201, "<script>alert(1)</script>")


@row("B48", "a NUL deep inside")
def nul(t: Table) -> None:
    for probe in (
        {"method": "GET", "path": "/a\u0000", "accepted": [200], "rejected": [401]},
        {"method": "GET", "path": "/", "headers": {"X\u0000": "a"}, "accepted": [200], "rejected": [401]},
        {"method": "POST", "path": "/", "body": "\ud800", "accepted": [200], "rejected": [401]},
    ):
        t.refused(t.person("POST", "/v1/providers/", {**PROVIDER, "probe": probe}), 400, "validation_error")
    config = {
        "issue": {"method": "POST", "path": "/k", "body": {"a": ["\u0000"]}, "secret": "/k", "id": "/i"}
    }
    body = {**PROVIDER, "driver": "http", "driver_config": config}
    t.refused(t.person("POST", "/v1/providers/", body), 400, "validation_error")


@row("B49", "times without a zone, or that never come")
def times(t: Table) -> None:
    values = (
        "2026-01-01T00:00:00", "2026-01-01", "10000-01-01T00:00:00Z", "2026-01-01T24:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-01T00:00:00+25:00", "20260101T000000Z", "2026-01-01 00:00:00Z", "now",
        "-0001-01-01T00:00:00Z",
        "２026-01-01T00:00:00Z", "",
    )  # fmt: skip
    path = f"/v1/services/{t.world.service.slug}/keys/"
    report = {"instance": "web-1", "sequence": 1, "to": "2026-01-01T00:00:00Z", "versions": []}
    for value in (*values, 1_767_225_600, None, True, ["2026-01-01T00:00:00Z"]):
        body = {"environment": "dev", "secret": "sk_never_stored_0123", "expires_at": value}
        sent = value if isinstance(value, str) else ""
        t.refused(t.person("POST", path, body), 400, "validation_error", sent=sent, fields=["expires_at"])
        answer = t.consumer("POST", f"{t.path}reports/", body={**report, "from": value})
        t.refused(answer, 400, "validation_error", sent=sent)
