"""Access tokens, the end of a token, and the public key to check access tokens with."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import DatabaseError

from keyvault import audit, clock
from keyvault.actors import Actor
from keyvault.crypto.access_tokens import MAX_LIFETIME, mint_access_token
from keyvault.crypto.globs import GlobError, parse_globs
from keyvault.crypto.signed import public_key_set
from keyvault.delivery.admission import admitted, the_caller
from keyvault.delivery.answer import Answer, NotRecorded, as_json, stamp
from keyvault.delivery.authenticate import Caller, audience, issuer
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import as_uuid
from keyvault.delivery.requests import Request
from keyvault.exceptions import invalid
from keyvault.keystore import keys
from keyvault.models import ConsumerToken
from keyvault.services.consumers import revoke_token
from keyvault.strict_json import integer, parse_object, refuse_unknown

DEFAULT_LIFETIME = 60
_MINTING = frozenset({"paths", "expires_in"})


async def mint(plane: Plane, request: Request) -> Answer:
    """A short-lived token, limited to paths. Its parent's grants still apply on every request."""
    return await admitted(
        plane,
        request,
        the_caller,
        lambda caller: _mint(caller, request.body, clock.now()),
        access_tokens=False,
    )


def _mint(caller: Caller, body: bytes, now: datetime) -> Answer:
    wanted = parse_object(body)
    refuse_unknown(wanted, _MINTING)
    paths = _paths(wanted.get("paths", ["*"]))
    lifetime = integer(wanted.get("expires_in", DEFAULT_LIFETIME), "expires_in", low=1, high=MAX_LIFETIME)
    secret = mint_access_token(
        keys().service,
        issuer=issuer(),
        audience=audience(),
        parent=str(as_uuid(caller.token.id)),
        environment=caller.environment,
        paths=paths,
        now=now,
        expires_in=lifetime,
    )
    _record(caller, paths, lifetime, now)
    told = {
        "access_token": secret.expose(),
        "token_type": "AccessToken",
        "expires_in": lifetime,
        # The token counts whole seconds.
        "expires_at": stamp(now.replace(microsecond=0) + timedelta(seconds=lifetime)),
    }
    return as_json(201, told)


def _paths(value: object) -> list[str]:
    try:
        return [glob.text for glob in parse_globs(value)]
    except GlobError as error:
        raise invalid("paths", str(error)) from error


def _actor(caller: Caller) -> Actor:
    return Actor(kind="consumer", name=caller.consumer)


def _record(caller: Caller, paths: list[str], lifetime: int, now: datetime) -> None:
    try:
        audit.record(
            "consumer:access-token:minted",
            actor=_actor(caller),
            now=now,
            team_id=caller.token.team_id,
            subject=str(as_uuid(caller.token.id)),
            consumer=caller.consumer,
            paths=paths,
            expires_in=lifetime,
        )
    except DatabaseError as error:
        raise NotRecorded from error


async def revoke_self(plane: Plane, request: Request) -> Answer:
    """The presented token ends now, and with it every access token minted from it."""
    return await admitted(
        plane, request, the_caller, lambda caller: _revoke(caller, request.body), access_tokens=False
    )


def _revoke(caller: Caller, body: bytes) -> Answer:
    if body:
        refuse_unknown(parse_object(body), ())
    revoke_token(_actor(caller), ConsumerToken.objects.get(pk=as_uuid(caller.token.id)), now=clock.now())
    return Answer(204, content_type=b"")


async def public_keys(plane: Plane, request: Request) -> Answer:
    """The key set by which a gateway checks access tokens without asking us. Public, no credential."""
    return as_json(200, public_key_set(keys().service))
