"""KV1: the only format in which a secret is stored.

    KEK[kid] wraps a fresh 256-bit DEK per secret:
        AES-256-GCM(KEK, random nonce, DEK, aad = LP("kv1/wrap", kid, CTX, commit))
    EK | commit = HKDF-SHA256(DEK, random salt, info = LP("kv1/data", CTX), 64 bytes)
    ciphertext  = HEADER | AES-256-GCM(EK, random nonce, plaintext, aad = LP("kv1/ct", HEADER, CTX))
    HEADER      = "KV" | version 1 | suite 1 | salt 32 | commit 32 | nonce 12
    CTX         = LP(instance, purpose, service, environment, key, version)

The commitment makes a ciphertext open under one DEK only, and binds the two stored columns to
each other. No function takes a nonce, and nothing is ever stored or accepted in the clear.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvault.crypto.errors import IntegrityError, KeyServiceUnavailable
from keyvault.crypto.mac import lp
from keyvault.crypto.secret import Secret

if TYPE_CHECKING:
    from keyvault.crypto.keyring import KekProvider

__all__ = [
    "Context",
    "IntegrityError",
    "KeyServiceUnavailable",
    "Opener",
    "Sealed",
    "open_sealed",
    "rewrap",
    "seal",
    "seal_under",
]

DEK_SIZE: Final = 32
# Larger than the largest secret taken in (64 KiB): stored replies quote a secret and escape it.
MAX_PLAINTEXT: Final = 512 * 1024

_PREAMBLE: Final = b"KV\x01\x01"
_SALT_SIZE: Final = 32
_COMMIT_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_HEADER_SIZE: Final = len(_PREAMBLE) + _SALT_SIZE + _COMMIT_SIZE + _NONCE_SIZE
_SHORTEST: Final = _HEADER_SIZE + _TAG_SIZE
_LONGEST: Final = _SHORTEST + MAX_PLAINTEXT
_SALT_END: Final = len(_PREAMBLE) + _SALT_SIZE
_COMMIT_END: Final = _SALT_END + _COMMIT_SIZE
_COMMIT_LENGTH: Final = _COMMIT_SIZE.to_bytes(4, "big")
_HEADER_LENGTH: Final = _HEADER_SIZE.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Context:
    """What a sealed secret belongs to. Ids are UUID strings, never names; "" where not applicable.

    A secret sealed in one context opens in no other: not in another row, column, environment
    or installation. Raises ``ValueError`` without an instance and a purpose.
    """

    instance: str
    purpose: str
    service: str
    environment: str
    key: str
    version: str

    def __post_init__(self) -> None:
        if not self.instance or not self.purpose:
            raise ValueError("A context names at least its instance and its purpose.")

    def encoded(self) -> bytes:
        """Return CTX, the bytes that both encryptions are bound to."""
        return lp(self.instance, self.purpose, self.service, self.environment, self.key, self.version)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The three columns of a sealed secret; ``kid`` names the KEK that wraps the DEK."""

    ciphertext: bytes = field(repr=False)
    wrapped_dek: bytes = field(repr=False)
    kid: str


class _Header(NamedTuple):
    raw: bytes
    salt: bytes
    commit: bytes
    nonce: bytes


def _parse(ciphertext: bytes) -> _Header | None:
    """Split off the header; None for anything that we did not write."""
    if not _SHORTEST <= len(ciphertext) <= _LONGEST or not ciphertext.startswith(_PREAMBLE):
        return None
    return _Header(
        ciphertext[:_HEADER_SIZE],
        ciphertext[len(_PREAMBLE) : _SALT_END],
        ciphertext[_SALT_END:_COMMIT_END],
        ciphertext[_COMMIT_END:_HEADER_SIZE],
    )


# What the encryptions are bound to starts the same way each time, and ``lp`` may be put together from parts.
_DATA: Final = lp("kv1/data")
_BODY: Final = lp("kv1/ct")


def _derive(dek: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    """Return (encryption key, commitment), 32 bytes each. ``context`` is ``lp(CTX)``, here and below."""
    hkdf = HKDF(algorithm=SHA256(), length=64, salt=salt, info=_DATA + context)
    okm = hkdf.derive(dek)
    return okm[:32], okm[32:]


@lru_cache(maxsize=256)
def _wrap(kid: str) -> bytes:
    return lp("kv1/wrap", kid)


def _wrap_aad(kid: str, context: bytes, commit: bytes) -> bytes:
    return _wrap(kid) + context + _COMMIT_LENGTH + commit


def _body_aad(header: bytes, context: bytes) -> bytes:
    return _BODY + _HEADER_LENGTH + header + context


def seal(secret: Secret, context: Context, *, environment: str, keks: KekProvider) -> Sealed:
    """Seal a secret under the environment's primary KEK.

    ``environment`` is the keyring's name for it: dev, staging, prod or system.
    Raises ``KeyServiceUnavailable`` when this process does not hold that environment and
    ``ValueError`` for a secret above ``MAX_PLAINTEXT`` bytes.
    """
    return seal_under(secret, context, environment=environment, kid=keks.primary(environment), keks=keks)


def seal_under(secret: Secret, context: Context, *, environment: str, kid: str, keks: KekProvider) -> Sealed:
    """Seal a secret under one named KEK; for canaries, which must prove every kid."""
    encoded = lp(context.encoded())
    if len(secret.expose().encode()) > MAX_PLAINTEXT:
        raise ValueError(f"A sealed secret has at most {MAX_PLAINTEXT} bytes.")
    dek, salt, nonce = os.urandom(DEK_SIZE), os.urandom(_SALT_SIZE), os.urandom(_NONCE_SIZE)
    encryption_key, commit = _derive(dek, salt, encoded)
    wrapped = keks.wrap(environment, kid, dek, _wrap_aad(kid, encoded, commit))
    header = _PREAMBLE + salt + commit + nonce
    body = AESGCM(encryption_key).encrypt(nonce, secret.expose().encode(), _body_aad(header, encoded))
    return Sealed(header + body, wrapped, kid)


class Opener:
    """A sealed secret made ready to be opened many times. It holds nothing but what is stored anyway.

    Every ``open`` unwraps the DEK again: no key and no plaintext is kept between two of them.
    """

    __slots__ = ("_ciphertext", "_context", "_kid", "_wrapped")

    def __init__(self, sealed: Sealed, context: Context) -> None:
        self._ciphertext = sealed.ciphertext
        self._wrapped = sealed.wrapped_dek
        self._kid = sealed.kid
        self._context = lp(context.encoded())

    def open(self, environment: str, keks: KekProvider) -> Secret:
        """Return the secret. Raises as ``open_sealed`` does."""
        # The frame that raises holds no key: error reports print the variables of every frame.
        secret = self._open(environment, keks)
        if secret is None:
            raise IntegrityError
        return secret

    def _open(self, environment: str, keks: KekProvider) -> Secret | None:
        header = _parse(self._ciphertext)
        if header is None:
            return None
        context = self._context
        dek = keks.unwrap(environment, self._kid, self._wrapped, _wrap_aad(self._kid, context, header.commit))
        if len(dek) != DEK_SIZE:
            return None
        encryption_key, commit = _derive(dek, header.salt, context)
        if not hmac.compare_digest(commit, header.commit):
            return None
        try:
            plaintext = AESGCM(encryption_key).decrypt(
                header.nonce, self._ciphertext[_HEADER_SIZE:], _body_aad(header.raw, context)
            )
        except InvalidTag:
            return None
        # Only seal() makes plaintext that gets past the tag, so this is UTF-8.
        return Secret(plaintext.decode())


def open_sealed(sealed: Sealed, context: Context, *, environment: str, keks: KekProvider) -> Secret:
    """Open a sealed secret.

    Raises ``IntegrityError`` for data that was changed, moved or is not ours, always the
    same, and ``KeyServiceUnavailable`` when the KEK cannot be had.
    """
    return Opener(sealed, context).open(environment, keks)


def rewrap(sealed: Sealed, context: Context, *, environment: str, keks: KekProvider) -> Sealed:
    """Wrap the DEK under the environment's primary KEK; the ciphertext stays as it is.

    The unwrapped DEK is checked against the commitment, and the new wrap is opened again
    before it is returned. Raises as ``open_sealed`` does.
    """
    encoded = lp(context.encoded())
    header = _parse(sealed.ciphertext)
    if header is None:
        raise IntegrityError
    kid = keks.primary(environment)
    wrapped = _move_dek(sealed, header, encoded, environment, kid, keks)
    if wrapped is None:
        raise IntegrityError
    return Sealed(sealed.ciphertext, wrapped, kid)


def _move_dek(
    sealed: Sealed, header: _Header, context: bytes, environment: str, kid: str, keks: KekProvider
) -> bytes | None:
    old_aad = _wrap_aad(sealed.kid, context, header.commit)
    new_aad = _wrap_aad(kid, context, header.commit)
    dek = keks.unwrap(environment, sealed.kid, sealed.wrapped_dek, old_aad)
    try:
        if len(dek) != DEK_SIZE or not hmac.compare_digest(
            _derive(dek, header.salt, context)[1], header.commit
        ):
            return None
        wrapped = keks.wrap(environment, kid, dek, new_aad)
        if not hmac.compare_digest(keks.unwrap(environment, kid, wrapped, new_aad), dek):
            return None
        return wrapped
    finally:
        # A provider may fail in here, and this frame would then be in the error report.
        del dek
