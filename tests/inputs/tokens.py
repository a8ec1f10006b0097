"""B25 to B29: access tokens."""

from __future__ import annotations

import time

from keyvault.keystore import installation_id, keys
from tests.forging import Forge
from tests.inputs.table import MINT, Table, row


def forge(t: Table, issued: float = 0.0) -> Forge:
    """Who has the server's signing key; tokens of so many seconds from now."""
    return Forge(
        keys().service,
        "http://127.0.0.1:8000",
        f"keyturn:{installation_id()}",
        str(t.world.token_row.id),
        int(time.time() + issued),
    )


@row("B25", "an access token that mints, ends or manages")
def mints(t: Table) -> None:
    token = forge(t).sound()
    header = ("Authorization", f"AccessToken {token}")
    for path in (MINT, "/v1/auth/revoke-self/"):
        t.refused(t.anonymous("POST", path, header, body=b"{}"), 403, "access_token_not_allowed", sent=token)
    for method, path in (("GET", "/v1/teams/"), ("POST", "/v1/teams/"), ("GET", "/v1/audit/")):
        body = b"{}" if method == "POST" else None
        t.refused(t.anonymous(method, path, header, body=body), 403, "access_token_not_allowed", sent=token)


@row("B26", "an access token outside of its paths")
def outside(t: Table) -> None:
    f = forge(t)
    for paths in (
        ["/v1/keys/other/prod/"],
        ["/v1/auth/*"],
        [t.path + "watch/"],
        [t.path[:-1]],
        ["/v1/keys/*/dev/"],
    ):
        token = f.signed(f.header(), f.claims() | {"paths": paths})
        t.refused(t.use(token), 401, "path_not_allowed", sent=token)


@row("B27", "an access token at another time than its own", writes=True)
def other_times(t: Table) -> None:
    f = forge(t)
    assert t.use(f.sound()).status == 200
    expired = forge(t, -62)
    t.refused(t.use(expired.sound()), 401, "access_token_expired", sent=expired.sound())
    just = f.signed(f.header(), f.claims() | {"iat": f.issued - 60, "nbf": f.issued - 60, "exp": f.issued})
    t.refused(t.use(just), 401, "access_token_expired", sent=just)
    ahead = forge(t, 60)
    t.refused(t.use(ahead.sound()), 401, "invalid_access_token", sent=ahead.sound())
    for changed in (
        {"nbf": f.issued + 60},
        {"iat": f.issued + 60},
        {"exp": f.issued + 601},
        {"exp": f.issued - 1},
    ):
        token = f.signed(f.header(), f.claims() | changed)
        t.refused(t.use(token), 401, "invalid_access_token", sent=token)


def _invalid(t: Table, tokens: dict[str, str]) -> None:
    for token in tokens.values():
        # A line break ends a header, so that one cannot be sent.
        if "\n" not in token:
            t.refused(t.use(token), 401, "invalid_access_token", sent=token)


@row("B28", "another algorithm, key, header or claim")
def forged(t: Table) -> None:
    f = forge(t)
    _invalid(t, f.other_headers() | f.other_keys() | f.other_claims())


@row("B29", "another spelling of a good one")
def spelled(t: Table) -> None:
    _invalid(t, forge(t).other_spellings())
