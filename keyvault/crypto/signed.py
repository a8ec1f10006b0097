"""Signed JSON documents. No framework: whoever holds one and the key set can check it.

The signature is a JWS with detached content (RFC 7515, appendix F): its content is the document without the
member ``signature``, in the one form that RFC 8785 gives it. The header is exactly
``{"alg": "EdDSA", "kid": ..., "typ": "keyturn-<kind>+jws"}``: the signing key also signs access tokens, and
the type keeps every kind of document apart from them and from each other.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, Never

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keyvault.crypto.keyring_document import ServiceKeys

SIGNATURE: Final = "signature"

_ALGORITHM: Final = "EdDSA"


class SignedError(Exception):
    """This cannot be checked; the text says why."""


class NotADocument(SignedError):
    """It is no document of this kind."""


class UnknownSigner(SignedError):
    """The key set holds no key by the name that the signature gives."""


class NotGenuine(SignedError):
    """The signature does not fit: the document was changed, or another key signed it."""


def public_key_set(service_keys: ServiceKeys) -> dict[str, Any]:
    """The JSON Web Key Set by which others check what this installation signs."""
    key = {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": _ALGORITHM,
        "kid": service_keys.signing_kid,
        "x": _encode(service_keys.signing.public_key().public_bytes_raw()),
    }
    return {"keys": [key]}


def sign(service_keys: ServiceKeys, kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its signature. The same document and key give the same signature.

    Raises ``ValueError`` for what has no one form: a number that is not finite or needs an exponent.
    """
    if SIGNATURE in document:
        raise ValueError("This document is signed already.")
    header = _header(service_keys.signing_kid, kind)
    signature = service_keys.signing.sign(_signed(header, document))
    return {**document, SIGNATURE: f"{header}..{_encode(signature)}"}


def verify(document: Mapping[str, Any], kind: str, key_set: Mapping[str, Any]) -> str:
    """Return the kid of the key that signed this document.

    ``key_set`` is a JSON Web Key Set. Raises ``UnknownSigner`` or ``NotGenuine``.
    """
    header, signature = _split(document.get(SIGNATURE))
    kid = _kid(header, kind)
    content = {name: value for name, value in document.items() if name != SIGNATURE}
    try:
        signed = _signed(header, content)
    except ValueError:
        raise NotGenuine("It holds a value that no signed document holds.") from None
    try:
        _public_key(key_set, kid).verify(signature, signed)
    except InvalidSignature:
        raise NotGenuine("The signature does not fit: the file was changed.") from None
    return kid


def canonical(value: object) -> bytes:
    """The one form of a JSON value (RFC 8785). Raises ``ValueError`` for numbers that are not plain."""
    text = json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def read_document(data: bytes) -> dict[str, Any]:
    """The document in a file. Raises ``NotADocument``; a name that stands twice in an object is refused."""
    try:
        document = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise NotADocument("This is no JSON document.") from None
    if not isinstance(document, dict):
        raise NotADocument("This is no JSON object.")
    return document


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and name.isascii() for name in value):
            raise ValueError("names are ASCII")  # in any other alphabet two orders are in use
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**53:
            return int(value)
        if "e" in repr(value):
            raise ValueError("numbers are written without an exponent")
    return value


def _signed(header: str, content: Mapping[str, Any]) -> bytes:
    return f"{header}.{_encode(canonical(content))}".encode("ascii")


def _header(kid: str, kind: str) -> str:
    return _encode(canonical({"alg": _ALGORITHM, "kid": kid, "typ": f"keyturn-{kind}+jws"}))


def _split(signature: object) -> tuple[str, bytes]:
    """Header as it stands and the signature's 64 bytes."""
    parts = signature.split(".") if isinstance(signature, str) else []
    if len(parts) != 3 or parts[1]:
        raise NotGenuine("It is not signed.")
    return parts[0], _decode(parts[2])


def _kid(header: str, kind: str) -> str:
    """The name of the key, from a header that is exactly ours."""
    try:
        kid = json.loads(_decode(header))["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotGenuine("Its signature has no header that can be read.") from None
    if not isinstance(kid, str) or header != _header(kid, kind):
        raise NotGenuine("Its signature is of another kind.")
    return kid


def _public_key(key_set: Mapping[str, Any], kid: str) -> Ed25519PublicKey:
    keys = key_set.get("keys")
    for key in keys if isinstance(keys, list) else ():
        if isinstance(key, Mapping) and (key.get("kid"), key.get("crv")) == (kid, "Ed25519"):
            try:
                return Ed25519PublicKey.from_public_bytes(_decode(str(key.get("x"))))
            except (ValueError, NotGenuine):
                raise UnknownSigner(f"The key {kid} of the key set cannot be read.") from None
    raise UnknownSigner(f"The key set holds no key {kid}.")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Unpadded base64url, in the one spelling that its bytes have."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise NotGenuine("Its signature cannot be read.") from None
    if _encode(data) != text:
        raise NotGenuine("Its signature cannot be read.")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _refuse(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
