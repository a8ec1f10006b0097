"""Access tokens: short-lived, limited to paths, signed with Ed25519, in one closed JWT profile.

    header  = exactly {"alg": "EdDSA", "typ": "keyturn-at+jwt", "kid": ...}
    claims  = exactly iss, aud, sub, env, paths, iat, nbf, exp, jti

JWT libraries are generous: they take lists where a string was meant, padding, unknown headers and
missing claims. So the library computes and checks the signature only; everything else is checked
here, and one token has one spelling. What the token allows is less than this: the parent must be
alive and its grants still apply, which the caller looks up on every request.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Never

from jwt import PyJWTError
from jwt.api_jws import PyJWS

from keyvault.crypto.globs import GlobError, parse_globs
from keyvault.crypto.keyring_document import ServiceKeys
from keyvault.crypto.secret import Secret

TOKEN_TYPE: Final = "keyturn-at+jwt"
MAX_LIFETIME: Final = 600
MAX_TOKEN_BYTES: Final = 3500

_ALGORITHM: Final = "EdDSA"
_HEADER_NAMES: Final = frozenset({"alg", "typ", "kid"})
_CLAIM_NAMES: Final = frozenset({"iss", "aud", "sub", "env", "paths", "iat", "nbf", "exp", "jti"})
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_ENVIRONMENT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CLOCK_DIFFERENCE: Final = 5  # seconds that another of our hosts may be ahead
_JWS: Final = PyJWS(algorithms=[_ALGORITHM])


class InvalidAccessToken(Exception):
    """This is not an access token that we minted for this installation."""

    def __init__(self, message: str = "The access token is not valid.") -> None:
        super().__init__(message)


class AccessTokenExpired(InvalidAccessToken):
    """The token is ours and its time is over."""

    def __init__(self) -> None:
        super().__init__("The access token has expired.")


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a verified token says. ``token_id`` is the parent consumer token's UUID; times are UTC."""

    token_id: str
    environment: str
    paths: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    jti: str


def mint_access_token(
    service_keys: ServiceKeys,
    *,
    issuer: str,
    audience: str,
    parent: str,
    environment: str,
    paths: Sequence[str],
    now: datetime,
    expires_in: int,
) -> Secret:
    """Sign an access token for ``expires_in`` whole seconds (1-600) from ``now``.

    ``parent`` is the consumer token's UUID. Raises ``ValueError`` (``GlobError`` for paths) for
    what must not be signed; callers check what they took from outside before.
    """
    if type(expires_in) is not int or not 1 <= expires_in <= MAX_LIFETIME:
        raise ValueError(f"An access token lives 1 to {MAX_LIFETIME} whole seconds.")
    if not issuer or not audience:
        raise ValueError("An access token has an issuer and an audience.")
    if not _ENVIRONMENT.fullmatch(environment):
        raise ValueError("The environment of a token is a lower-case slug.")
    if now.utcoffset() is None:
        raise ValueError("The time needs a zone.")
    issued_at = int(now.timestamp())
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": str(uuid.UUID(parent)),
        "env": environment,
        "paths": [glob.text for glob in parse_globs(list(paths))],
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + expires_in,
        "jti": str(uuid.uuid4()),
    }
    payload = json.dumps(claims, separators=(",", ":")).encode()
    headers = {"typ": TOKEN_TYPE, "kid": service_keys.signing_kid}
    token = _JWS.encode(payload, service_keys.signing, algorithm=_ALGORITHM, headers=headers)
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"An access token has at most {MAX_TOKEN_BYTES} bytes.")
    return Secret(token)


def verify_access_token(
    service_keys: ServiceKeys, text: str, *, issuer: str, audience: str, now: datetime
) -> AccessClaims:
    """Return the claims of a token that we minted for this issuer and audience.

    In this order: size and form, header, kid, signature, claims, time. Raises
    ``InvalidAccessToken``, or its subclass ``AccessTokenExpired`` from the second named in
    ``exp`` on, and only once the signature is right.
    """
    if len(text) > MAX_TOKEN_BYTES or not _COMPACT.fullmatch(text):
        raise InvalidAccessToken
    segments = [_decoded(segment) for segment in text.split(".")]
    header = _members(segments[0], _HEADER_NAMES)
    if (header["alg"], header["typ"], header["kid"]) != (_ALGORITHM, TOKEN_TYPE, service_keys.signing_kid):
        raise InvalidAccessToken
    try:
        payload = _JWS.decode(text, service_keys.signing.public_key(), algorithms=[_ALGORITHM])
    except PyJWTError:
        raise InvalidAccessToken from None
    if payload != segments[1]:
        raise InvalidAccessToken
    return _checked(_members(segments[1], _CLAIM_NAMES), issuer, audience, now)


def _decoded(segment: str) -> bytes:
    """Decode unpadded base64url and insist on the one spelling that its bytes have."""
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError):
        raise InvalidAccessToken from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != segment:
        raise InvalidAccessToken
    return raw


def _members(raw: bytes, names: frozenset[str]) -> dict[str, object]:
    """Parse a JSON object that has exactly these members, each once."""
    with suppress(ValueError, RecursionError):
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if isinstance(value, dict) and value.keys() == names:
            return value
    raise InvalidAccessToken


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidAccessToken
    return members


def _refuse_constant(_: str) -> Never:
    raise InvalidAccessToken


def _checked(claims: dict[str, object], issuer: str, audience: str, now: datetime) -> AccessClaims:
    issued, starts, ends = (_seconds(claims[name]) for name in ("iat", "nbf", "exp"))
    environment = _string(claims["env"])
    if claims["iss"] != issuer or claims["aud"] != audience:
        raise InvalidAccessToken
    if starts != issued or not 1 <= ends - issued <= MAX_LIFETIME:
        raise InvalidAccessToken
    if not _ENVIRONMENT.fullmatch(environment):
        raise InvalidAccessToken
    try:
        paths = tuple(glob.text for glob in parse_globs(claims["paths"]))
    except GlobError:
        raise InvalidAccessToken from None
    token_id, jti = _uuid(claims["sub"]), _uuid(claims["jti"])
    seconds = now.timestamp()
    if issued > seconds + _CLOCK_DIFFERENCE:
        raise InvalidAccessToken
    if seconds >= ends:
        raise AccessTokenExpired
    return AccessClaims(
        token_id=token_id,
        environment=environment,
        paths=paths,
        issued_at=datetime.fromtimestamp(issued, UTC),
        expires_at=datetime.fromtimestamp(ends, UTC),
        jti=jti,
    )


def _seconds(value: object) -> int:
    # type(), not isinstance(): True is an int, and 1e3 or "60" are none.
    if type(value) is not int:
        raise InvalidAccessToken
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidAccessToken
    return value


def _uuid(value: object) -> str:
    text = _string(value)
    with suppress(ValueError):
        if str(uuid.UUID(text)) == text:
            return text
    raise InvalidAccessToken
