"""Key-encryption keys: the interface every provider of them has, and the keyring document's provider."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Never, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.crypto.environment_keys import EnvironmentKeys
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.crypto.keyring_document import (
    KEY_SIZE,
    MAX_DOCUMENT,
    EnvironmentKeks,
    KeyringDocument,
    MakeKek,
    ServiceKeys,
    new_document,
    new_kid,
    parse_document,
    random_kek,
)
from keyvault.crypto.keyring_file import (
    create_private,
    decoded,
    locked_folder,
    read_private,
    replace_private,
)
from keyvault.crypto.remote import Place, WrappedKey

__all__ = [
    "HeldKek",
    "KekDescription",
    "KekProvider",
    "Keyring",
    "KeyringError",
    "Keys",
    "ServiceKeys",
    "load_keys",
]

_NONCE_SIZE: Final = 12
_KID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class KekDescription:
    """What may be shown of an environment's KEKs. ``kids`` includes the primary."""

    primary: str
    kids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeldKek:
    """Where a KEK is. ``provider``: ``file``, ``env`` or a remote one, which calls it ``key``."""

    environment: str
    kid: str
    primary: bool
    provider: str
    key: str


class KekProvider(Protocol):
    """Wraps and unwraps data keys. Every method may raise ``KeyServiceUnavailable``."""

    def primary(self, environment: str) -> str:
        """Return the kid that new data keys are wrapped under."""

    def wrap(self, environment: str, kid: str, dek: bytes, aad: bytes) -> bytes:
        """Wrap a data key under one KEK, bound to ``aad``."""

    def unwrap(self, environment: str, kid: str, wrapped: bytes, aad: bytes) -> bytes:
        """Return the data key. Raises ``IntegrityError`` if it was changed or is another's."""

    def describe(self) -> Mapping[str, KekDescription]:
        """Return what is held, by environment."""

    def health(self) -> None:
        """Return if every KEK that is held works now."""


class Keyring:
    """The KEKs of a keyring document, from a file or from text.

    A kid belongs to one environment; asking for it under another is refused even if the
    data would open. A keyring from a file can be changed, and each change is on disk before
    the method returns.
    """

    __slots__ = ("_ciphers", "_document", "_environment_keys", "_path")

    def __init__(
        self,
        document: KeyringDocument,
        path: Path | None = None,
        environment_keys: EnvironmentKeys | None = None,
    ) -> None:
        self._document = document
        self._path = path
        self._environment_keys = environment_keys
        self._hold()
        # Expanding an AES key costs more than one use of it.
        self._ciphers: dict[tuple[str, str], AESGCM] = {}

    @classmethod
    def from_file(cls, path: Path, environment_keys: EnvironmentKeys | None = None) -> Keyring:
        """Read a keyring file. Raises ``KeyringError``; a mode open to others is one reason."""
        return cls(parse_document(read_private(path)), path, environment_keys)

    @classmethod
    def from_env(cls, text: str, environment_keys: EnvironmentKeys | None = None) -> Keyring:
        """Read the same document given as JSON text or as base64 of it. Raises ``KeyringError``."""
        return cls(parse_document(_plain_text(text)), None, environment_keys)

    @classmethod
    def create_file(cls, path: Path, environments: Iterable[str], make: MakeKek = random_kek) -> Keyring:
        """Write a new keyring file (0600, never over an existing one) with fresh keys and return it."""
        document = new_document(environments, make)
        create_private(path, document.to_json())
        return cls(document, path)

    @property
    def service(self) -> ServiceKeys:
        """The installation's own keys, from the same document."""
        return self._document.service

    def primary(self, environment: str) -> str:
        """Return the environment's primary kid. Raises ``KeyServiceUnavailable`` if it is not held."""
        return self._environment(environment).primary

    def wrap(self, environment: str, kid: str, dek: bytes, aad: bytes) -> bytes:
        """Return nonce (12) | AES-256-GCM(KEK, DEK, aad). Raises as ``unwrap`` does."""
        cipher = self._cipher(environment, kid, writing=True)
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + cipher.encrypt(nonce, dek, aad)

    def unwrap(self, environment: str, kid: str, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK.

        Raises ``KeyServiceUnavailable`` for an environment or kid that is not held here, and
        ``IntegrityError`` for changed data and for a kid of another environment.
        """
        cipher = self._cipher(environment, kid)
        try:
            return cipher.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], aad)
        except (InvalidTag, ValueError):
            raise IntegrityError from None

    def describe(self) -> Mapping[str, KekDescription]:
        """Return primary and kids for each environment that is held."""
        return {
            name: KekDescription(held.primary, tuple(held.keks))
            for name, held in self._document.environments.items()
        }

    def keks(self) -> list[HeldKek]:
        """Every KEK that is held, and where it is."""
        here = "env" if self._path is None else "file"
        return [
            HeldKek(environment, kid, kid == held.primary, kek.provider, kek.key)
            if isinstance(kek, WrappedKey)
            else HeldKek(environment, kid, kid == held.primary, here, "")
            for environment, held in self._document.environments.items()
            for kid, kek in held.keks.items()
        ]

    def health(self) -> None:
        """Whether what is stored can be read: each KEK wraps and unwraps, each environment key can be had.

        Raises ``KeyServiceUnavailable``.
        """
        for environment, held in self._document.environments.items():
            for kid, kek in held.keks.items():
                if isinstance(kek, WrappedKey):
                    self._cipher(environment, kid)
                    continue
                probe = os.urandom(KEY_SIZE)
                opened = self.unwrap(environment, kid, self.wrap(environment, kid, probe, b""), b"")
                if not hmac.compare_digest(opened, probe):
                    raise KeyServiceUnavailable(f"The KEK {kid} does not open what it wrapped.")

    def add(self, environment: str, make: MakeKek = random_kek, *, kid: str = "") -> str:
        """Add a fresh KEK, not yet primary, and return its kid (a new one unless given); a new environment
        starts with it.

        Every process must have read the changed file before the kid is promoted. Raises what ``make`` raises.
        """
        self.demand_changeable()
        kid = kid or new_kid(environment)
        # Before the folder is locked: a provider may take its time.
        kek = make(environment, kid)

        def change(document: KeyringDocument) -> KeyringDocument:
            held = document.environments.get(environment) or EnvironmentKeks(kid, {})
            return _with(document, environment, EnvironmentKeks(held.primary, {**held.keks, kid: kek}))

        self._rewrite(change)
        return kid

    def promote(self, environment: str, kid: str) -> None:
        """Make a held kid the primary of its environment. Raises ``KeyringError`` if it is not there."""

        def change(document: KeyringDocument) -> KeyringDocument:
            held = _held(document, environment, kid)
            return _with(document, environment, EnvironmentKeks(kid, held.keks))

        self._rewrite(change)

    def retire(self, environment: str, kid: str) -> None:
        """Remove a KEK for good. The caller has made sure that no row and no backup needs it.

        Raises ``KeyringError`` for the primary and for a kid that is not there.
        """

        def change(document: KeyringDocument) -> KeyringDocument:
            held = _held(document, environment, kid)
            if kid == held.primary:
                raise KeyringError(f"The KEK {kid} is the primary of {environment}; promote another first.")
            rest = {other: key for other, key in held.keks.items() if other != kid}
            return _with(document, environment, EnvironmentKeks(held.primary, rest))

        self._rewrite(change)

    def _rewrite(self, change: Callable[[KeyringDocument], KeyringDocument]) -> None:
        path = self.demand_changeable()
        with locked_folder(path):
            # Read again under the lock, or a change by another process would be undone.
            document = change(parse_document(read_private(path)))
            text = document.to_json()
            # What cannot be read back is never written.
            checked = parse_document(text)
            replace_private(path, text)
        self._document = checked
        self._ciphers = {}
        self._hold()

    def demand_changeable(self) -> Path:
        """The file that is changed. Raises ``KeyringError`` for a keyring that came as text."""
        if self._path is None:
            raise KeyringError("This keyring came from the environment; change it where it is set.")
        return self._path

    def _hold(self) -> None:
        """Have the environment keys ready that the document names."""
        if self._environment_keys is not None:
            self._environment_keys.hold(
                {
                    Place(environment, kid): kek
                    for environment, held in self._document.environments.items()
                    for kid, kek in held.keks.items()
                    if isinstance(kek, WrappedKey)
                }
            )

    def _environment(self, environment: str) -> EnvironmentKeks:
        held = self._document.environments.get(environment)
        if held is None:
            raise KeyServiceUnavailable(f"This process holds no KEK of the environment {environment}.")
        return held

    def _cipher(self, environment: str, kid: str, *, writing: bool = False) -> AESGCM:
        cipher = self._ciphers.get((environment, kid))
        if cipher is None:
            kek = self._environment(environment).keks.get(kid)
            if kek is None:
                self._refuse_kid(environment, kid)
            if isinstance(kek, WrappedKey):
                return self._environment_key(environment, kid, kek, writing=writing)
            cipher = self._ciphers[environment, kid] = AESGCM(kek)
        return cipher

    def _environment_key(self, environment: str, kid: str, wrapped: WrappedKey, *, writing: bool) -> AESGCM:
        held = self._environment_keys
        if held is None:
            raise KeyServiceUnavailable(f"This process does not know the provider {wrapped.provider}.")
        return (held.for_writing if writing else held.for_reading)(environment, kid, wrapped)

    def _refuse_kid(self, environment: str, kid: str) -> Never:
        # A kid comes out of the database: one that we cannot have written is tampering.
        foreign = any(kid in held.keks for held in self._document.environments.values())
        if foreign or not _KID.fullmatch(kid):
            raise IntegrityError
        raise KeyServiceUnavailable(f"The KEK {kid} of {environment} is not in the keyring.")

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._document.environments)})"

    def __reduce__(self) -> Never:
        raise TypeError("A keyring cannot be pickled or copied.")


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Everything secret that a process starts with."""

    keks: Keyring
    service: ServiceKeys


def load_keys(
    *, path: Path | None, text: str | None, environment_keys: EnvironmentKeys | None = None
) -> Keys:
    """Load the keyring from a file or from text, exactly one of them. Raises ``KeyringError``."""
    if text is not None and path is None:
        keyring = Keyring.from_env(text, environment_keys)
    elif path is not None and text is None:
        keyring = Keyring.from_file(path, environment_keys)
    else:
        raise KeyringError("Give the keyring either as a file or as text, not both and not neither.")
    return Keys(keyring, keyring.service)


def _with(document: KeyringDocument, environment: str, held: EnvironmentKeks) -> KeyringDocument:
    return replace(document, environments={**document.environments, environment: held})


def _held(document: KeyringDocument, environment: str, kid: str) -> EnvironmentKeks:
    held = document.environments.get(environment)
    if held is None or kid not in held.keks:
        raise KeyringError(f"The keyring has no KEK {kid} under {environment}.")
    return held


def _plain_text(text: str) -> str:
    """Return JSON text as it is, and the decoded text of anything else."""
    if text.lstrip().startswith("{") or len(text) > 2 * MAX_DOCUMENT:
        return text
    data = b""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise KeyringError("The keyring text is neither a JSON object nor base64 of one.")
    return decoded(data, "The keyring text")
