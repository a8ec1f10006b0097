"""What a provider of single sign-on says of somebody: believed only when it is signed, fresh and for us.

The rules are those of OpenID Connect Core 1.0, 3.1.3.7, without the leave to skip the signature because the
token came over TLS.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from jwt import PyJWK, PyJWTError, decode, get_unverified_header

# Signatures that a provider makes with a key that only it has. Never "none", never a shared secret.
_KIND_OF_KEY: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
_LEEWAY: Final = 60  # seconds by which the provider's clock may differ
_LONGEST_NAME: Final = 191  # of a subject; what the account's column holds
_NEEDED: Final = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
_CHECKED: Final[Any] = {
    "require": ["iss", "sub", "aud", "exp", "iat"],
    "enforce_minimum_key_length": True,
}


class Refused(OAuth2Error):  # type: ignore[misc]
    """The provider, or what came in its name, is not believed. ``code`` says why and holds nothing of it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def check_discovery(document: object, issuer: str) -> dict[str, Any]:
    """The provider's own description, which must be that of ``issuer``, letter by letter."""
    if not isinstance(document, dict) or not all(isinstance(document.get(name), str) for name in _NEEDED):
        raise Refused("discovery_incomplete")
    if document["issuer"] != issuer:
        raise Refused("issuer_differs")
    return document


def verify(
    token: object, *, keys: object, discovery: Mapping[str, Any], client_id: str, nonce: str
) -> dict[str, Any]:
    """The claims of an ID token. ``keys``: the provider's JWKS. Raises ``Refused``."""
    if not isinstance(token, str):
        raise Refused("id_token_missing")
    try:
        header = get_unverified_header(token)
        algorithm = _algorithm(header, discovery)
        key = PyJWK(_key(keys, header, algorithm), algorithm)
        claims: dict[str, Any] = decode(
            token,
            key,
            algorithms=[algorithm],
            audience=client_id,
            issuer=discovery["issuer"],
            leeway=_LEEWAY,
            options=_CHECKED,
        )
    except PyJWTError as error:
        # The class says what is wrong; the message may quote the token.
        raise Refused(f"id_token_{type(error).__name__}") from None
    _ours(claims, client_id)
    sent = claims.get("nonce")
    if not nonce or not isinstance(sent, str) or not hmac.compare_digest(sent.encode(), nonce.encode()):
        raise Refused("nonce_differs")
    if not 0 < len(claims["sub"]) <= _LONGEST_NAME:
        raise Refused("subject_unusable")
    return claims


def _algorithm(header: Mapping[str, Any], discovery: Mapping[str, Any]) -> str:
    algorithm = header.get("alg")
    promised = discovery.get("id_token_signing_alg_values_supported", list(_KIND_OF_KEY))
    if not isinstance(algorithm, str) or algorithm not in _KIND_OF_KEY:
        raise Refused("algorithm_refused")
    if not isinstance(promised, list) or algorithm not in promised:
        raise Refused("algorithm_not_announced")
    return algorithm


def _key(keys: object, header: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """The one key that can have signed this; without a ``kid`` there must be only one of its kind."""
    listed = keys.get("keys") if isinstance(keys, dict) else None
    fitting = [
        key
        for key in (listed if isinstance(listed, list) else [])
        if isinstance(key, dict)
        and key.get("kty") == _KIND_OF_KEY[algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and header.get("kid", key.get("kid")) == key.get("kid")
    ]
    if len(fitting) != 1:
        raise Refused("key_unknown")
    return fitting[0]


def _ours(claims: Mapping[str, Any], client_id: str) -> None:
    """A token for several must name us as the one who asked for it; so must one that names anybody."""
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", "" if several else client_id) != client_id:
        raise Refused("party_differs")
