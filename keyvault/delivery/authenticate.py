"""Step 1: who asks. A consumer token, or an access token minted from one."""

from __future__ import annotations

import hmac
import ipaddress
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import structlog
from django.conf import settings
from django.db.models import QuerySet

from keyvault import integrity
from keyvault.crypto.access_tokens import AccessTokenExpired, InvalidAccessToken, verify_access_token
from keyvault.crypto.globs import Glob, matches, parse_globs
from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.delivery.credentials import invalid_api_key
from keyvault.delivery.requests import Request
from keyvault.exceptions import KeyturnError, denied
from keyvault.keystore import installation_id, keys
from keyvault.models import Consumer, ConsumerToken
from keyvault.services.people import user_for_token

log = structlog.get_logger("keyturn.delivery")

_TOUCH_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Caller:
    """A consumer behind a living token.

    ``paths`` is None for the token itself, and the globs of an access token. ``expires_at`` is that of the
    credential that was presented.
    """

    token: ConsumerToken
    credential: Literal["consumer_token", "access_token"]
    paths: tuple[Glob, ...] | None
    expires_at: datetime | None

    @property
    def consumer(self) -> Consumer:
        return self.token.consumer

    @property
    def environment(self) -> str:
        return self.token.environment.slug

    def covers(self, path: str) -> bool:
        return self.paths is None or matches(self.paths, path)


def issuer() -> str:
    return str(settings.KEYTURN_URL)


def audience() -> str:
    return f"keyturn:{installation_id()}"


def authenticate(request: Request, now: datetime, *, access_tokens: bool = True) -> Caller:
    """The caller, from the one credential of the request.

    ``access_tokens`` False: a valid one gets 403 ``access_token_not_allowed``. Raises ``KeyturnError`` for
    every refusal and ``IntegrityError`` for a token row that somebody changed.
    """
    if request.credential is None:
        raise KeyturnError("missing_api_key", "Missing API key.")
    presented = request.credential.secret.expose()
    if request.credential.kind == "access_token":
        caller = _by_access_token(presented, request.peer, now)
        if not access_tokens:
            raise KeyturnError("access_token_not_allowed", "This needs the consumer token itself.")
        if not caller.covers(request.path):
            raise KeyturnError("path_not_allowed", "The access token does not cover this path.")
    else:
        caller = _by_token(presented, request.peer, now)
    _touch(caller.token, now)
    return caller


def _by_token(presented: str, peer: str | None, now: datetime) -> Caller:
    parsed = parse(presented)
    if parsed is not None and parsed.kind is TokenKind.USER:
        _refuse_person(presented, now)
    if parsed is None or parsed.kind is not TokenKind.CONSUMER:
        raise invalid_api_key(presented)
    wanted = digest(keys().service.pepper, presented)
    row = next(iter(_tokens().filter(digest=wanted)), None)
    if row is None or not hmac.compare_digest(bytes(row.digest), wanted):
        raise invalid_api_key()
    if not _lives(row, peer, now):
        raise invalid_api_key()
    return Caller(row, "consumer_token", None, row.expires_at)


def _refuse_person(presented: str, now: datetime) -> None:
    if user_for_token(presented, now=now) is not None:
        raise denied("This token belongs to a person. Keys are delivered to consumers: use a consumer token.")


def _by_access_token(presented: str, peer: str | None, now: datetime) -> Caller:
    try:
        claims = verify_access_token(keys().service, presented, issuer=issuer(), audience=audience(), now=now)
    except AccessTokenExpired as error:
        raise KeyturnError("access_token_expired", "The access token has expired.") from error
    except InvalidAccessToken as error:
        raise _invalid_access_token() from error
    row = next(iter(_tokens().filter(pk=uuid.UUID(claims.token_id))), None)
    if row is None or row.environment.slug != claims.environment or not _lives(row, peer, now):
        raise _invalid_access_token()
    return Caller(row, "access_token", parse_globs(claims.paths), claims.expires_at)


def _invalid_access_token() -> KeyturnError:
    return KeyturnError("invalid_access_token", "Invalid access token.")


def _tokens() -> QuerySet[ConsumerToken]:
    # Looked up by what is unique: first() would have the database sort one row.
    return ConsumerToken.objects.select_related("consumer", "environment").order_by()


def _lives(row: ConsumerToken, peer: str | None, now: datetime) -> bool:
    """Whether this token counts now. The log gets the reason; the caller never does."""
    integrity.verify(row)
    reason = _why_dead(row, peer, now)
    if reason:
        log.warning(
            "token refused", reason=reason, consumer=row.consumer.slug, token_id=str(row.id), peer=peer
        )
    return not reason


def _why_dead(row: ConsumerToken, peer: str | None, now: datetime) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired"
    if row.cidrs and not _within(peer, row.cidrs):
        return "address not allowed"
    return ""


def _within(peer: str | None, cidrs: Sequence[str]) -> bool:
    """Whether the connection comes from one of the networks. Unknown peers (socket files) never do."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(cidr) for cidr in cidrs)


def _touch(row: ConsumerToken, now: datetime) -> None:
    """Note the use, at most once a minute. Of many at once, one writes."""
    last = row.last_used_at
    if last is None or now - last >= _TOUCH_EVERY:
        ConsumerToken.objects.filter(pk=row.pk, last_used_at=last).update(last_used_at=now)
