"""B01 to B10: the credential of a request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.services import consumers
from tests.inputs.table import Header, Table, row


def _key(text: str) -> Header:
    return ("X-API-Key", text)


def _bearer(text: str) -> Header:
    return ("Authorization", f"Bearer {text}")


@row("B01", "no credential")
def no_credential(t: Table) -> None:
    for method, path in (
        ("GET", t.path),
        ("GET", "/v1/keys/"),
        ("GET", "/v1/auth/whoami/"),
        ("GET", f"{t.path}watch/"),
        ("GET", "/v1/teams/"),
        ("GET", "/v1/audit/"),
    ):
        t.refused(t.anonymous(method, path), 401, "missing_api_key")
    for path in ("/v1/auth/access-token/", "/v1/auth/revoke-self/", "/v1/verify/", "/v1/teams/"):
        t.refused(t.anonymous("POST", path, body=b"{}"), 401, "missing_api_key")


@row("B02", "a header that is empty, blank, or a scheme alone")
def blank(t: Table) -> None:
    for headers in (
        (_key(""),),
        (_key("   "),),
        (("Authorization", ""),),
        (("Authorization", "   "),),
        (("Authorization", "Token"),),
        (("Authorization", "Token "),),
        (("Authorization", "Bearer    "),),
        (("Authorization", "AccessToken"),),
        (_key(""), ("Authorization", "Token")),
    ):
        for path in (t.path, "/v1/teams/"):
            t.refused(t.anonymous("GET", path, *headers), 401, "missing_api_key")


@row("B03", "a token that is unknown, revoked, expired or mistyped")
def dead(t: Table) -> Iterator[None]:
    now = clock.now()
    revoked, revoked_text = t.world.new_token()
    consumers.revoke_token(SYSTEM, revoked, now=now)
    _, expired = t.world.new_token(expires_at=now + timedelta(seconds=1))
    yield
    good = t.world.token
    mistyped = good[:-1] + ("a" if good[-1] != "a" else "b")
    unknown = mint(TokenKind.CONSUMER, "prod").expose()
    bodies = set()
    for text in (
        unknown,
        revoked_text,
        mistyped,
        good[:-1],
        good + "a",
        good.upper(),
        "ktc_prod_x",
        "q" * 5_000,
    ):
        for header in (_key(text), _bearer(text), ("Authorization", f"Token {text}")):
            reply = t.anonymous("GET", t.path, header)
            error = t.refused(reply, 401, "invalid_api_key", sent=text)
            bodies.add(str({**error, "request_id": ""}))
    while t.anonymous("GET", "/v1/auth/whoami/", _key(expired)).status == 200:
        assert clock.now() < now + timedelta(seconds=20), "it does not expire"
    error = t.refused(t.anonymous("GET", t.path, _key(expired)), 401, "invalid_api_key", sent=expired)
    bodies.add(str({**error, "request_id": ""}))
    assert len(bodies) == 1


@row("B04", "a token with something around it")
def pasted(t: Table) -> None:
    for path, token in ((t.path, t.world.token), ("/v1/teams/", t.admin)):
        for wrapped, hint in (
            ('"{}"', "quot"),
            ("'{}'", "quot"),
            ("`{}`", "quot"),
            ("{} {}", "space"),
            ("x\t{}", "space"),
        ):
            text = wrapped.replace("{}", token)
            for header in (_key(text), _bearer(text)):
                t.refused(t.anonymous("GET", path, header), 401, "invalid_api_key", sent=text, hint=hint)
    # A line break ends a header, and what stands around its value the protocol takes away.
    whole = t.world.token.encode()
    lines = t.lines("GET /v1/auth/whoami/ HTTP/1.1").replace(whole, whole + b"\n x")
    t.bare(t.raw(lines), 400)


@row("B05", "a placeholder")
def placeholder(t: Table) -> None:
    for text in ("YOUR_API_KEY", "your-token-here", "<token>", "${KEYTURN_TOKEN}", "xxxxxxxx"):
        for header in (_key(text), _bearer(text)):
            reply = t.anonymous("GET", t.path, header)
            t.refused(reply, 401, "invalid_api_key", sent=text, hint="placeholder")
    reply = t.anonymous("GET", "/v1/teams/", _key("YOUR_API_KEY"))
    t.refused(reply, 401, "invalid_api_key", sent="YOUR_API_KEY", hint="placeholder")


@row("B06", "bytes in it that are no ASCII")
def not_ascii(t: Table) -> None:
    for text in ("é", "\xff", "ktc_prod_\xff", "\xff" * 70):
        for path in (t.path, "/v1/teams/"):
            t.refused(t.anonymous("GET", path, _key(text)), 401, "invalid_api_key", sent=text)
            t.refused(t.anonymous("GET", path, _bearer(text)), 401, "invalid_api_key", sent=text)
        reply = t.anonymous("GET", t.path, ("Authorization", f"AccessToken {text}"))
        t.refused(reply, 401, "invalid_access_token", sent=text)


@row("B07", "two credentials, or one header twice")
def two(t: Table) -> None:
    for path, token in ((t.path, t.world.token), ("/v1/teams/", t.admin)):
        key, bearer = _key(token), _bearer(token)
        for headers in (
            (key, bearer),
            (key, key),
            (bearer, bearer),
            (key, _key("another")),
            (key, ("Authorization", "Basic YTpi")),
            (key, ("Authorization", "AccessToken a.b.c")),
        ):
            t.refused(t.anonymous("GET", path, *headers), 400, "ambiguous_credentials", sent=token)


@row("B08", "a credential in the address")
def in_the_query(t: Table) -> None:
    for name in ("api_key", "API-KEY", "apikey", "token", "access_token", "x-api-key", "Authorization"):
        for target in (f"{t.path}?{name}=x", f"{t.path}watch/?{name}=x", f"/v1/keys/?{name}="):
            t.refused(t.consumer("GET", target), 400, "credential_in_url")
        t.refused(t.person("GET", f"/v1/teams/?{name}=x"), 400, "credential_in_url")
    for text in (t.world.token, t.world.token.replace("_", "%5F"), t.admin):
        t.refused(t.consumer("GET", f"{t.path}?instance={text}"), 400, "credential_in_url", sent=text)
        t.refused(t.person("GET", f"/v1/teams/?cursor={text}"), 400, "credential_in_url", sent=text)
        t.refused(t.anonymous("GET", f"/v1/keys/?limit={text}"), 400, "credential_in_url", sent=text)


@row("B09", "another scheme, or none")
def scheme(t: Table) -> None:
    for path, token in ((t.path, t.world.token), ("/v1/teams/", t.admin)):
        for name in ("Basic", "Digest", "ApiKey", "Tokens", "Negotiate"):
            reply = t.anonymous("GET", path, ("Authorization", f"{name} {token}"))
            t.refused(reply, 401, "invalid_api_key", sent=token)
    t.refused(t.anonymous("GET", t.path, ("Authorization", t.world.token)), 401, "invalid_api_key")


@row("B10", "a header of 64 kB, ten thousand headers")
def long_headers(t: Table) -> None:
    for text in ("Bearer " + "a" * 64_000, "Token " + t.world.token * 900):
        reply = t.anonymous("GET", t.path, ("Authorization", text))
        t.refused(reply, 401, "invalid_api_key", sent=text)
    reply = t.anonymous("GET", t.path, ("Authorization", "AccessToken " + "a.b." + "c" * 64_000))
    t.refused(reply, 401, "invalid_access_token")
    t.bare(t.raw(t.lines(f"GET {t.path} HTTP/1.1", f"X-Pad: {'a' * 1_000_000}")), 431)
    t.bare(t.raw(t.lines(f"GET {t.path} HTTP/1.1", *(f"X-{n}: 1" for n in range(10_000)))), 431)
    t.bare(t.raw(t.lines(f"GET {t.path} HTTP/1.1", *["X-Same: 1"] * 10_000)), 431)
