"""The consumer paths and the methods each of them takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from keyvault.crypto.globs import is_canonical_path
from keyvault.exceptions import KeyturnError


class Endpoint(StrEnum):
    LIST = "list"
    KEY = "key"
    WATCH = "watch"
    REPORTS = "reports"
    ACCESS_TOKEN = "access-token"
    WHOAMI = "whoami"
    REVOKE_SELF = "revoke-self"
    JWKS = "jwks"
    VERIFY = "verify"
    FORWARD_AUTH = "forward-auth"


_READ = ("GET", "HEAD")
METHODS: dict[Endpoint, tuple[str, ...]] = {
    Endpoint.LIST: _READ,
    Endpoint.KEY: _READ,
    Endpoint.WATCH: ("GET",),
    Endpoint.REPORTS: ("POST",),
    Endpoint.ACCESS_TOKEN: ("POST",),
    Endpoint.WHOAMI: _READ,
    Endpoint.REVOKE_SELF: ("POST",),
    Endpoint.JWKS: _READ,
    Endpoint.VERIFY: ("POST",),
}
# In the database, each success of them: a line in the log would say the same, and cost more than the answer.
RECORDED = frozenset({Endpoint.KEY, Endpoint.WATCH, Endpoint.VERIFY, Endpoint.FORWARD_AUTH})
# A gateway asks with the method of the original request, whatever that is.
ANY_METHOD = frozenset({Endpoint.FORWARD_AUTH})

_FIXED = {
    "/v1/keys/": Endpoint.LIST,
    "/v1/auth/access-token/": Endpoint.ACCESS_TOKEN,
    "/v1/auth/whoami/": Endpoint.WHOAMI,
    "/v1/auth/revoke-self/": Endpoint.REVOKE_SELF,
    "/v1/.well-known/jwks.json": Endpoint.JWKS,
    "/v1/verify/": Endpoint.VERIFY,
    "/v1/forward-auth/": Endpoint.FORWARD_AUTH,
}
# Wider than a slug: odd names belong to this path too, and are refused here and nowhere else.
_KEY = re.compile(r"/v1/keys/([^/]+)/([^/]+)/(?:(watch|reports)/)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """A path of ours and what it asks for."""

    path: str
    endpoint: Endpoint
    service: str = ""
    environment: str = ""


def route(path: str) -> Route | None:
    """What a path asks for, or None for a path that is not ours."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return Route(path, fixed)
    found = _KEY.fullmatch(path)
    if found is None:
        return None
    return Route(path, Endpoint(found[3] or "key"), found[1], found[2])


def locate(raw: bytes) -> Route | None:
    """``route`` of a path as it was sent. Raises ``malformed_path`` for one that has another spelling."""
    path = raw.partition(b"?")[0]
    if not is_canonical_path(path):
        raise KeyturnError("malformed_path", "The path is not in canonical form.")
    return route(path.decode("ascii"))
