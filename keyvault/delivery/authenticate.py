"""Step 1: who asks. A consumer token, or an access token minted from one."""

from __future__ import annotations

import ipaddress
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import structlog
from django.conf import settings

from keyvault import clock
from keyvault.crypto.access_tokens import (
    AccessClaims,
    AccessTokenExpired,
    InvalidAccessToken,
    verify_access_token,
)
from keyvault.crypto.globs import Glob, matches, parse_globs
from keyvault.crypto.keyring import Keys
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.delivery.cache import View
from keyvault.delivery.credentials import invalid_api_key
from keyvault.delivery.records import TokenRecord, as_uuid
from keyvault.delivery.requests import Request
from keyvault.exceptions import KeyturnError, denied
from keyvault.keystore import installation_id
from keyvault.services.people import user_for_token

log = structlog.get_logger("keyturn.delivery")

_CLAIMS_KEPT: Final = 10_000


@dataclass(slots=True, eq=False)
class Caller:
    """A consumer behind a living token.

    ``paths`` is None for the token itself, and the globs of an access token. ``expires_at`` is that of the
    credential that was presented.
    """

    token: TokenRecord
    credential: Literal["consumer_token", "access_token"]
    paths: tuple[Glob, ...] | None
    expires_at: datetime | None

    @property
    def consumer(self) -> str:
        return self.token.consumer

    @property
    def environment(self) -> str:
        return self.token.environment

    @property
    def repeats(self) -> bool:
        """Whether the same words always come from the same caller; not where the address matters as well."""
        return not self.token.networks

    def covers(self, path: str) -> bool:
        return self.paths is None or matches(self.paths, path)


def issuer() -> str:
    return str(settings.KEYTURN_URL)


def audience() -> str:
    return f"keyturn:{installation_id()}"


class Person(Exception):
    """The token may be a person's. ``refusal`` asks the database; it belongs on a thread."""

    def __init__(self, presented: str) -> None:
        super().__init__()
        self._presented = Secret(presented)

    def refusal(self) -> KeyturnError:
        if user_for_token(self._presented.expose(), now=clock.now()) is None:
            return invalid_api_key(self._presented.expose())
        return denied(
            "This token belongs to a person. Keys are delivered to consumers: use a consumer token."
        )


class Dead(KeyturnError):
    """The answer to an unknown token, for one that has ended. Who decides may tell of its use."""

    def __init__(self, token: TokenRecord, address: str | None) -> None:
        unknown = invalid_api_key()
        super().__init__(unknown.code, unknown.message)
        self.token = token
        self.address = address


class Claims:
    """What access tokens say, for those whose signature has been checked. Their digest is kept, not they."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, AccessClaims] = OrderedDict()
        self._keys: Keys | None = None

    def of(self, presented: str, keys: Keys, now: datetime) -> AccessClaims:
        """Raises ``InvalidAccessToken`` or ``AccessTokenExpired``."""
        if keys is not self._keys:
            self._known.clear()
            self._keys = keys
        name = digest(keys.service.pepper, presented)
        claims = self._known.get(name)
        if claims is None:
            claims = verify_access_token(
                keys.service, presented, issuer=issuer(), audience=audience(), now=now
            )
            self._known[name] = claims
            if len(self._known) > _CLAIMS_KEPT:
                self._known.popitem(last=False)
        elif claims.expires_at <= now:
            raise AccessTokenExpired
        return claims


def authenticate(view: View, request: Request, claims: Claims, *, access_tokens: bool = True) -> Caller:
    """The caller, from the one credential of the request.

    ``access_tokens`` False: a valid one gets 403 ``access_token_not_allowed``. Raises ``KeyturnError`` for
    every refusal, ``IntegrityError`` for a token row that somebody changed, and ``Person``.
    """
    if request.credential is None:
        raise KeyturnError("missing_api_key", "Missing API key.")
    presented = request.credential.secret.expose()
    if request.credential.kind == "unknown":
        raise invalid_api_key(presented)
    if request.credential.kind == "token":
        return _by_token(view, presented, request.peer)
    caller = _by_access_token(view, presented, claims, request.peer)
    if not access_tokens:
        raise KeyturnError("access_token_not_allowed", "This needs the consumer token itself.")
    if not caller.covers(request.route.path):
        raise KeyturnError("path_not_allowed", "The access token does not cover this path.")
    return caller


def _by_token(view: View, presented: str, peer: str | None) -> Caller:
    name = digest(view.keys.service.pepper, presented)
    if not view.knows_token(name):
        # Whatever is in memory passed these checks when it was first asked for.
        parsed = parse(presented)
        if parsed is not None and parsed.kind is TokenKind.USER:
            raise Person(presented)
        if parsed is None or parsed.kind is not TokenKind.CONSUMER:
            raise invalid_api_key(presented)
    token = view.token(name)
    if token is None:
        raise invalid_api_key()
    if not _lives(token, peer, view.now):
        raise Dead(token, peer) if _has_ended(token, view.now) else invalid_api_key()
    return Caller(token, "consumer_token", None, token.expires_at)


def _by_access_token(view: View, presented: str, claims: Claims, peer: str | None) -> Caller:
    try:
        told = claims.of(presented, view.keys, view.now)
    except AccessTokenExpired as error:
        raise KeyturnError("access_token_expired", "The access token has expired.") from error
    except InvalidAccessToken as error:
        raise _invalid_access_token() from error
    token = view.token(uuid.UUID(told.token_id).bytes)
    if token is None or token.environment != told.environment or not _lives(token, peer, view.now):
        raise _invalid_access_token()
    return Caller(token, "access_token", parse_globs(told.paths), told.expires_at)


def _invalid_access_token() -> KeyturnError:
    return KeyturnError("invalid_access_token", "Invalid access token.")


def _lives(token: TokenRecord, peer: str | None, now: datetime) -> bool:
    """Whether this token counts now. The log gets the reason; the caller never does."""
    reason = _why_dead(token, peer, now)
    if reason:
        log.warning(
            "token refused",
            reason=reason,
            consumer=token.consumer,
            token_id=str(as_uuid(token.id)),
            peer=peer,
        )
    return not reason


def _has_ended(token: TokenRecord, now: datetime) -> bool:
    return token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now)


def _why_dead(token: TokenRecord, peer: str | None, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is not None and token.expires_at <= now:
        return "expired"
    if token.networks and not _within(peer, token.networks):
        return "address not allowed"
    return ""


def _within(peer: str | None, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Whether the connection comes from one of the networks. Unknown peers (socket files) never do."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
