"""Files sealed for whoever holds an identity: backups, and the keyring in escrow.

    HEADER  = MAGIC | count of recipients (1) | of each: ephemeral X25519 key (32), wrapped (48) | salt (32)
    wrapped = AES-256-GCM(HKDF(X25519(ephemeral, recipient), salt = ephemeral | recipient), file key)
    stream  = chunks of 64 KiB, AES-256-GCM under HKDF(file key, salt, info = SHA-256(HEADER) | name), each
              with the nonce: number of the chunk (11) | 1 for the last one, else 0

A file key belongs to one file, and a name to one stream in it, so that no nonce is used twice. Chunks cannot
be left out, moved, or taken from another stream; a stream that was cut off has no last chunk. Nothing here
holds more than two chunks in memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvault.crypto.secret import Secret

CHUNK: Final = 64 * 1024
MAGIC: Final = b"keyturn-sealed 1\n"
MOST_RECIPIENTS: Final = 16

_KEY: Final = 32
_TAG: Final = 16
_WRAPPED: Final = _KEY + _TAG
_CHECK: Final = 4
_RECIPIENT: Final = "keyturn-recipient-"
_IDENTITY: Final = "keyturn-identity-"
_NONCE_ONCE: Final = bytes(12)  # each wrapping key is used for one message


class SealedFileError(Exception):
    """It cannot be opened, or not sealed for these recipients; the text says why."""


# Recipients and identities -------------------------------------------------------------------------


def new_identity() -> tuple[Secret, str]:
    """A fresh identity, to be kept offline, and the recipient that everything is sealed for."""
    private = X25519PrivateKey.generate()
    return Secret(_text(_IDENTITY, private.private_bytes_raw())), _recipient_of(private)


def read_identity(text: str) -> X25519PrivateKey:
    """The identity in a file; lines that begin with # are left out. Raises ``SealedFileError``."""
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if len(found) != 1:
        raise SealedFileError("An identity file holds exactly one identity.")
    return X25519PrivateKey.from_private_bytes(_bytes(_IDENTITY, found[0], "identity"))


def recipient_of(identity: X25519PrivateKey) -> str:
    """What has to be sealed for, so that this identity opens it."""
    return _recipient_of(identity)


def _recipient_of(identity: X25519PrivateKey) -> str:
    return _text(_RECIPIENT, identity.public_key().public_bytes_raw())


def _text(prefix: str, raw: bytes) -> str:
    return prefix + base64.urlsafe_b64encode(raw + _check(prefix, raw)).decode("ascii").rstrip("=")


def _bytes(prefix: str, text: str, what: str) -> bytes:
    """The 32 bytes. One that was copied badly is refused: what is sealed for it nobody could ever open."""
    body = text.removeprefix(prefix)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    raw, check = data[:_KEY], data[_KEY:]
    if not text.startswith(prefix) or len(raw) != _KEY or check != _check(prefix, raw):
        raise SealedFileError(
            f"This is no {what}: it begins with {prefix} and was made by keyturn backup keygen."
        )
    return raw


def _check(prefix: str, raw: bytes) -> bytes:
    return hashlib.sha256(prefix.encode("ascii") + raw).digest()[:_CHECK]


# Sealing -------------------------------------------------------------------------------------------


class Sealer:
    """One file that is being sealed. ``header`` goes before the first stream."""

    def __init__(self, recipients: Sequence[str]) -> None:
        if not 0 < len(recipients) <= MOST_RECIPIENTS:
            raise SealedFileError(f"Name one recipient or more, at most {MOST_RECIPIENTS}.")
        self._file_key = os.urandom(_KEY)
        self._salt = os.urandom(_KEY)
        self._names: set[str] = set()
        wrapped = b"".join(self._wrap(text) for text in recipients)
        self.header = MAGIC + bytes([len(recipients)]) + wrapped + self._salt

    def _wrap(self, text: str) -> bytes:
        recipient = _bytes(_RECIPIENT, text, "recipient")
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        key = _wrapping_key(ephemeral, public, recipient, peer=recipient)
        return public + AESGCM(key).encrypt(_NONCE_ONCE, self._file_key, None)

    def seal(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The sealed stream of this name, in pieces. A name is good for one stream."""
        if name in self._names:
            raise ValueError("a name is sealed once")
        self._names.add(name)
        cipher = _stream_cipher(self._file_key, self._salt, self.header, name)
        number, held = 0, bytearray()
        for piece in pieces:
            held += piece
            # One chunk is kept back: only at the end it is known to be the last.
            while len(held) > CHUNK:
                yield cipher.encrypt(_nonce(number, last=False), bytes(held[:CHUNK]), None)
                del held[:CHUNK]
                number += 1
        yield cipher.encrypt(_nonce(number, last=True), bytes(held), None)


# Opening -------------------------------------------------------------------------------------------


class Unsealer:
    """One sealed file that is being read, from its header on."""

    def __init__(self, file: BinaryIO, identity: X25519PrivateKey) -> None:
        self._header = read_header(file)
        body = self._header[len(MAGIC) + 1 :]
        self._salt = body[-_KEY:]
        self._file_key = _unwrap(body[:-_KEY], identity)

    def open(self, name: str, file: BinaryIO, size: int) -> Iterator[bytes]:
        """The stream of this name, from the next ``size`` bytes of the file, chunk by chunk.

        Raises ``SealedFileError`` where it was changed or cut off. What was given out before that is genuine,
        but not complete: use it only when the end has come.
        """
        cipher = _stream_cipher(self._file_key, self._salt, self._header, name)
        number = 0
        while True:
            take = min(size, CHUNK + _TAG)
            chunk, size = file.read(take), size - take
            try:
                plain = cipher.decrypt(_nonce(number, last=not size), chunk, None)
            except (InvalidTag, ValueError):
                raise SealedFileError("It was changed or cut off: it does not open.") from None
            yield plain
            if not size:
                return
            number += 1


def read_header(file: BinaryIO) -> bytes:
    """The header of a sealed file, from its first byte on. Raises ``SealedFileError``."""
    start = file.read(len(MAGIC) + 1)
    count = start[-1] if len(start) == len(MAGIC) + 1 else 0
    if not start.startswith(MAGIC) or not 0 < count <= MOST_RECIPIENTS:
        raise SealedFileError("This is no sealed file of a version that is known here.")
    rest = file.read(size := count * (_KEY + _WRAPPED) + _KEY)
    if len(rest) != size:
        raise SealedFileError("It was cut off in its header.")
    return start + rest


def _unwrap(wrapped: bytes, identity: X25519PrivateKey) -> bytes:
    recipient = identity.public_key().public_bytes_raw()
    one = _KEY + _WRAPPED
    for at in range(0, len(wrapped), one):
        public, sealed = wrapped[at : at + _KEY], wrapped[at + _KEY : at + one]
        try:
            key = _wrapping_key(identity, public, recipient, peer=public)
            return AESGCM(key).decrypt(_NONCE_ONCE, sealed, None)
        except (InvalidTag, ValueError):
            continue  # it is another recipient's
    raise SealedFileError("It was not sealed for this identity.")


def _wrapping_key(private: X25519PrivateKey, ephemeral: bytes, recipient: bytes, *, peer: bytes) -> bytes:
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise SealedFileError("This recipient is no key that can be sealed for.") from None
    return _derive(shared, ephemeral + recipient, b"keyturn/sealed/wrap")


def _stream_cipher(file_key: bytes, salt: bytes, header: bytes, name: str) -> AESGCM:
    info = b"keyturn/sealed/stream" + hashlib.sha256(header).digest() + name.encode()
    return AESGCM(_derive(file_key, salt, info))


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY, salt, info).derive(secret)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
