"""B30 to B39, B43, B60, B61 and B65: the request line, and the name of the server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from tests.inputs.table import Table, row


def _malformed(t: Table, *paths: str) -> None:
    for path in paths:
        t.refused(t.consumer("GET", path), 400, "malformed_path", sent=path)
        # Before the credential is looked at, and for everybody.
        t.refused(t.anonymous("GET", path), 400, "malformed_path", sent=path)
        t.refused(t.person("POST", path, {}), 400, "malformed_path", sent=path)


@row("B30", "an escaped slash")
def escaped_slash(t: Table) -> None:
    _malformed(t, "/v1/keys/a%2Fb/prod/", "/v1/keys/a/prod%2f", "/v1/teams/a%2Fb/", "/v1/keys/a%252Fb/prod/")


@row("B31", "dots that climb")
def dots(t: Table) -> None:
    _malformed(
        t, "/v1/keys/a/%2e%2e/", "/v1/keys/a/../prod/", "/v1/keys/a/./prod/", "/v1/keys/..",
        "/v1/teams/%2e%2e/",
        "/v1/../admin/", "/v1/keys/a/.%2e/",
    )  # fmt: skip


@row("B32", "a NUL in it")
def nul(t: Table) -> None:
    _malformed(t, "/v1/keys/a%00b/prod/", "/v1/teams/%00/", "/v1/keys/a/%00/")


@row("B33", "a line break in it")
def line_break(t: Table) -> None:
    _malformed(
        t, "/v1/keys/a/prod%0a/", "/v1/keys/a%0d%0aX:y/prod/", "/v1/teams/a%0a/", "/v1/keys/a/prod/%0a"
    )


@row("B34", "an empty segment, a parameter, a backslash, any escape")
def strange(t: Table) -> None:
    _malformed(
        t, "/v1/keys//prod/", "/v1//keys/", "/v1/keys/a/prod;x=1/", "/v1/keys/a\\b/prod/",
        "/v1/keys/%61/prod/",
        "/v1/auth/whoami%2f", "/v1/teams//", "/v1/teams/a;b/",
        "/v1/keys/a|b/prod/", '/v1/keys/"a"/prod/',
    )  # fmt: skip
    t.refused(t.raw(t.lines("GET /v1/keys/\xc3\xa9/prod/ HTTP/1.1")), 400, "malformed_path")


@row("B35", "another spelling of a name")
def folded(t: Table) -> None:
    for path in (
        t.path.replace("/prod/", "/PROD/"),
        t.path.replace("service", "Service"),
        t.path.replace("/keys/", "/Keys/"),
        t.path.replace("-", "_"),
        f"/v1/teams/{t.world.service.team.slug.upper()}/",
        "/v1/Teams/",
    ):
        t.refused(
            t.consumer("GET", path) if "/keys" in path.lower() else t.person("GET", path), 404, "not_found"
        )
    assert t.consumer("GET", t.path.replace("/v1/", "/V1/")).status == 404
    # Full-width letters have to be escaped, and no escape is taken.
    t.refused(t.consumer("GET", t.path.replace("prod", "%EF%BD%90rod")), 400, "malformed_path")


@row("B36", "no slash at the end")
def no_slash(t: Table) -> None:
    for path in (
        "/v1/keys",
        "/v1/auth/whoami",
        "/v1/auth/access-token",
        t.path.rstrip("/"),
        "/v1/teams",
        "/v1",
    ):
        for method, body in (("GET", None), ("POST", b"{}")):
            reply = t.person(method, path, body)
            t.refused(reply, 404, "not_found")
            assert "location" not in reply.headers


@row("B37", "unknown, not yours, or not in this environment")
def not_yours(t: Table) -> Iterator[None]:
    other = t.another().slug
    yield
    bodies = set()
    for service, environment in (
        (other, "prod"),
        ("nothing", "prod"),
        (t.world.service.slug, "dev"),
        ("a", "nowhere"),
    ):
        for rest in ("", "watch/", "?version=1", "?version=pending", "?format=raw"):
            reply = t.consumer("GET", f"/v1/keys/{service}/{environment}/{rest}")
            error = t.refused(reply, 404, "not_found", sent=service if service != "a" else "")
            bodies.add(str({**error, "request_id": ""}))
    assert len(bodies) == 1


@row("B38", "a name of 5,000 characters")
def long_name(t: Table) -> None:
    name = "a" * 5_000
    t.refused(t.consumer("GET", f"/v1/keys/{name}/prod/"), 404, "not_found", sent=name)
    t.refused(t.consumer("GET", f"/v1/keys/a/{name}/"), 404, "not_found", sent=name)
    t.refused(t.person("GET", f"/v1/teams/{name}/"), 404, "not_found", sent=name)
    t.bare(t.raw(t.lines(f"GET /v1/keys/{'a' * 70_000}/prod/ HTTP/1.1")), 414)


@row("B39", "a key without a version")
def no_version(t: Table) -> Iterator[None]:
    from tests.api.delivery.world import build

    empty = build(t.server, imported=False)
    yield
    for rest in ("", "?version=current", "?format=env"):
        t.refused(empty.get(rest), 404, "no_active_version")


@row("B43", "a method that is not there, or that a header claims", writes=True)
def methods(t: Table) -> None:
    override = (("X-HTTP-Method-Override", "GET"), ("X-Method-Override", "GET"))
    for method in ("PUT", "TRACE", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get", "A" * 300):
        reply = t.consumer(method, t.path, *override)
        t.refused(reply, 405, "method_not_allowed", sent=method if len(method) > 9 else "")
        assert reply.headers["allow"] == "GET, HEAD"
    t.refused(t.raw(t.lines(f"CONNECT {t.path} HTTP/1.1")), 405, "method_not_allowed")
    for method in ("PUT", "TRACE", "OPTIONS", "PROPFIND"):
        reply = t.person(method, "/v1/teams/", None, *override)
        t.refused(reply, 405, "method_not_allowed")
        assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    override = (("X-HTTP-Method-Override", "DELETE"), ("X-HTTP-Method", "DELETE"))
    reply = t.person("POST", f"/v1/services/{t.world.service.slug}/", {}, *override)
    t.refused(reply, 405, "method_not_allowed")
    for path in (t.path, "/v1/keys/", "/v1/auth/whoami/"):
        seen, headers_only = t.consumer("GET", path), t.consumer("HEAD", path)
        assert (seen.status, headers_only.status, headers_only.body) == (200, 200, b"")
        assert headers_only.headers.get("etag") == seen.headers.get("etag")


@row("B60", "odd parameters")
def queries(t: Table) -> None:
    for query in (
        "version=abc", "version=0", "version=-1", "version=1.0", "version=%EF%BC%91", "version=" + "9" * 23,
        "version=CURRENT", "version=", "format=yaml", "format=", "instance=", "instance=a%20b",
        "instance=a%00",
        "instance=a%0a", "instance=%E2%80%AEa", "instance=%ff", "instance=" + "a" * 129, "instance=a/b",
        "instance=a&instance=b", "instance=a&instance=a", "instance", "instance=" + "a" * 5_000, "&&",
        "instance=a;version=1", "&".join(f"instance={n}" for n in range(20)),
    ):  # fmt: skip
        t.refused(t.consumer("GET", f"{t.path}?{query}"), 400, "validation_error")
    for query in ("=x", "weight=100", "Instance=a", "order=password", "page=1"):
        t.refused(t.consumer("GET", f"{t.path}?{query}"), 400, "unknown_field")
    for query in (
        "limit=0", "limit=201", "limit=-1", "limit=abc", "limit=1e9", "limit=1%00", "limit=",
        "limit=%D9%A3",
        "limit=5&limit=6", "limit=+5", "limit=1.0", "cursor=", "cursor=abc", "cursor=%00", "cursor=%C3%A9",
        "cursor=" + "A" * 2_000, "page=abc", "order=password", "format=xml", "a[]=1", "slug__startswith=a",
        "team__members__password=a", "_connector=OR",
    ):  # fmt: skip
        t.refused(t.person("GET", f"/v1/teams/?{query}"), 400, "validation_error")
    for query in ("limit=0", "limit=abc", "limit=1%00", "cursor=abc", "cursor=%00", "limit=1&limit=2"):
        t.refused(t.consumer("GET", f"/v1/keys/?{query}"), 400, "validation_error")


@row("B61", "an id that is none")
def ids(t: Table) -> None:
    good = str(uuid.uuid4())
    for name in ("abc", "-1", "9" * 23, f"{good[:-1]}g", good.upper(), good.replace("-", ""), "nil", good):
        for path in (f"/v1/rotations/{name}/", f"/v1/grants/{name}/", f"/v1/emergency/{name}/"):
            method = "DELETE" if "grants" in path else "GET"
            t.refused(t.person(method, path), 404, "not_found", sent=name)
        path = f"/v1/consumers/{t.world.consumer.slug}/tokens/{name}/"
        t.refused(t.person("DELETE", path), 404, "not_found", sent=name)


@row("B65", "another name of the server", writes=True)
def hosts(t: Table) -> None:
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1:80@evil.example",
        "a b",
        "localhost.evil",
    ):
        t.refused(t.consumer("GET", t.path, host=host), 400, "bad_host", sent=host)
        t.refused(t.anonymous("GET", "/v1/teams/", host=host), 400, "bad_host", sent=host)
    line, port, evil = f"GET {t.path} HTTP/1.1", t.server.port, "evil.example"
    for head in (
        f"{line}\r\nX-API-Key: {t.world.token}\r\n\r\n",
        f"{line}\r\nHost:\r\nX-API-Key: {t.world.token}\r\n\r\n",
        f"{line}\r\nHost: {evil}\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {t.world.token}\r\n\r\n",
        f"GET http://{evil}{t.path} HTTP/1.1\r\nHost: {evil}\r\nX-API-Key: {t.world.token}\r\n\r\n",
    ):
        t.refused(t.raw(head), 400, "bad_host", sent=evil)
    # Nobody believes these, and links are made from the setting.
    forwarded = (("X-Forwarded-Host", "evil.example"), ("Forwarded", "host=evil.example"))
    assert b"evil.example" not in t.consumer("GET", t.path, *forwarded).body
    made = t.person("POST", f"/v1/keys/{t.path.split('/')[3]}/prod/rotations/", {"dry_run": True}, *forwarded)
    assert (made.status, b"evil.example" in made.body) == (200, False)
