"""The keyring document: JSON text to values and back, with every rule that makes it safe to use.

    {"format": "keyturn-keyring", "version": 1,
     "environments": {"prod": {"primary": "prod-1f0c9a2b7d3e", "keks": {"prod-1f0c9a2b7d3e": "<base64>"}}},
     "service": {"pepper": "<base64>", "row_mac": "...", "audit": "...", "fingerprint": "...", "etag": "...",
                 "signing": {"kid": "sign-77aa01c4e2f0", "key": "<base64>"}}}

Every key is 256 bits in base64. Instead of a key, a kid may name where a KEK is that never leaves its
provider, with the environment key that it wrapped:

    "prod-1f0c9a2b7d3e": {"provider": "transit", "key": "keyturn-prod", "wrapped": "vault:v1:...",
                          "check": "<base64>"}

A document may hold only some environments: a process that gets such a document cannot open the others.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Never, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.crypto.errors import KeyringError
from keyvault.crypto.remote import REMOTE_KINDS, WrappedKey

KEY_SIZE: Final = 32
MAX_DOCUMENT: Final = 1024 * 1024

_FORMAT: Final = "keyturn-keyring"
_VERSION: Final = 1
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LONGEST_TEXT: Final = 16 * 1024  # of what a provider wrapped, or calls a key
_SERVICE_KEYS: Final = ("pepper", "row_mac", "audit", "fingerprint", "etag")
# 32 random bytes have fewer distinct values about once in 10^30 keys; a typed key has few.
_FEWEST_DISTINCT_BYTES: Final = 12


# A KEK as the document has it: the key itself, or the environment key that a remote KEK wrapped.
Kek = bytes | WrappedKey
# Makes the KEK of an environment and a kid.
MakeKek = Callable[[str, str], Kek]


def random_kek(environment: str, kid: str) -> Kek:
    """A KEK that stands in the document itself."""
    return os.urandom(KEY_SIZE)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceKeys:
    """The keys of the installation itself: five independent 256-bit values and the signing key."""

    pepper: bytes = field(repr=False)
    row_mac: bytes = field(repr=False)
    audit: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    etag: bytes = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)
    signing_kid: str

    def __reduce__(self) -> Never:
        raise TypeError("Service keys cannot be pickled or copied.")


@dataclass(frozen=True, slots=True, eq=False)
class EnvironmentKeks:
    """One environment's KEKs by kid, and the kid that new data is wrapped under."""

    primary: str
    keks: Mapping[str, Kek] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class KeyringDocument:
    """A checked document: ``parse_document`` and ``new_document`` are the only makers."""

    environments: Mapping[str, EnvironmentKeks]
    service: ServiceKeys

    def to_json(self) -> str:
        """Return the document as text, with every key in the clear: for the keyring file only."""
        service: dict[str, object] = {name: _encode(getattr(self.service, name)) for name in _SERVICE_KEYS}
        seed = self.service.signing.private_bytes_raw()
        service["signing"] = {"kid": self.service.signing_kid, "key": _encode(seed)}
        environments = {
            name: {"primary": held.primary, "keks": {kid: _written(kek) for kid, kek in held.keks.items()}}
            for name, held in self.environments.items()
        }
        document = {"format": _FORMAT, "version": _VERSION, "environments": environments, "service": service}
        return json.dumps(document, indent=2) + "\n"


def new_kid(environment: str) -> str:
    """Return a fresh kid: for people the environment, and a random part that keeps it unique.

    Raises ``KeyringError`` if the environment is not a name that a document may hold.
    """
    return _name(f"{environment}-{secrets.token_hex(6)}", "environments")


def new_document(environments: Iterable[str], make: MakeKek = random_kek) -> KeyringDocument:
    """Make a document with fresh keys, one KEK for each environment. Raises ``KeyringError`` and what
    ``make`` raises."""
    held: dict[str, EnvironmentKeks] = {}
    for environment in environments:
        kid = new_kid(environment)
        held[environment] = EnvironmentKeks(kid, {kid: make(environment, kid)})
    service = ServiceKeys(
        **{name: os.urandom(KEY_SIZE) for name in _SERVICE_KEYS},
        signing=Ed25519PrivateKey.from_private_bytes(os.urandom(KEY_SIZE)),
        signing_kid=new_kid("sign"),
    )
    return checked(KeyringDocument(held, service))


def parse_document(text: str) -> KeyringDocument:
    """Read a document. Raises ``KeyringError`` that names the place and never quotes a key."""
    members = _object(_load(text), "the document", {"format", "version", "environments", "service"})
    if members["format"] != _FORMAT:
        raise KeyringError(f'the document: "format" must be "{_FORMAT}".')
    if type(members["version"]) is not int or members["version"] != _VERSION:
        raise KeyringError(f'the document: "version" must be {_VERSION}.')
    environments = members["environments"]
    if not isinstance(environments, dict):
        raise KeyringError("environments: a JSON object is expected.")
    held = {_name(name, "environments"): _environment(name, value) for name, value in environments.items()}
    return checked(KeyringDocument(held, _service(members["service"])))


def checked(document: KeyringDocument) -> KeyringDocument:
    """Return the document if its keys may be used together; raise ``KeyringError`` otherwise.

    At least one environment; every primary is held; a kid stands in one environment only; no
    two keys are equal, wherever they stand; every key looks random.
    """
    if not document.environments:
        raise KeyringError("environments: the keyring holds no environment.")
    environment_of: dict[str, str] = {}
    place_of: dict[bytes, str] = {}
    for environment, held in document.environments.items():
        if held.primary not in held.keks:
            raise KeyringError(f"environments.{environment}: the primary KEK is not among its KEKs.")
        for kid, kek in held.keks.items():
            if kid in environment_of:
                first = environment_of[kid]
                raise KeyringError(f"The kid {kid} stands under both {first} and {environment}.")
            environment_of[kid] = environment
            # Two environment keys are equal if their checks are.
            key = kek.check if isinstance(kek, WrappedKey) else kek
            _check_key(key, f"environments.{environment}.keks.{kid}", place_of)
    for name in _SERVICE_KEYS:
        _check_key(getattr(document.service, name), f"service.{name}", place_of)
    _check_key(document.service.signing.private_bytes_raw(), "service.signing.key", place_of)
    return document


def _check_key(key: bytes, place: str, place_of: dict[bytes, str]) -> None:
    if key in place_of:
        raise KeyringError(f"{place} and {place_of[key]} are the same key; every key must be its own.")
    if len(set(key)) < _FEWEST_DISTINCT_BYTES:
        raise KeyringError(f"{place}: the key does not look random.")
    place_of[key] = place


def _load(text: str) -> object:
    """Parse JSON without leaving the text in an exception: a JSONDecodeError carries all of it."""
    if len(text) > MAX_DOCUMENT:
        raise KeyringError("The keyring is larger than 1 MiB.")
    with suppress(ValueError, RecursionError):
        return json.loads(text, object_pairs_hook=_unique_members, parse_constant=_no_constant)
    raise KeyringError("The keyring is not valid JSON.")


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise KeyringError("The keyring names a member twice in one object.")
    return members


def _no_constant(name: str) -> Never:
    raise KeyringError(f"The keyring holds {name}, which is not JSON.")


def _object(value: object, place: str, names: set[str]) -> dict[str, object]:
    """Return ``value`` if it is an object with exactly these members."""
    if not isinstance(value, dict):
        raise KeyringError(f"{place}: a JSON object is expected.")
    if missing := sorted(names - value.keys()):
        raise KeyringError(f"{place}: {', '.join(missing)} missing.")
    # Unknown members are counted, not named: one of them may be a key in the wrong place.
    if len(value) > len(names):
        raise KeyringError(f"{place}: only {', '.join(sorted(names))} may stand here.")
    return value


def _name(value: object, place: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise KeyringError(f"{place}: names are lower-case letters, digits and hyphens, at most 63.")
    return value


def _environment(name: str, value: object) -> EnvironmentKeks:
    place = f"environments.{name}"
    members = _object(value, place, {"primary", "keks"})
    keks = members["keks"]
    if not isinstance(keks, dict):
        raise KeyringError(f"{place}.keks: a JSON object is expected.")
    held = {_name(kid, f"{place}.keks"): _kek(kek, f"{place}.keks.{kid}") for kid, kek in keks.items()}
    return EnvironmentKeks(_name(members["primary"], f"{place}.primary"), held)


def _kek(value: object, place: str) -> Kek:
    return _wrapped(value, place) if isinstance(value, dict) else _key(value, place)


def _wrapped(value: object, place: str) -> WrappedKey:
    members = _object(value, place, {"provider", "key", "wrapped", "check"})
    if members["provider"] not in REMOTE_KINDS:
        raise KeyringError(f"{place}.provider: one of {', '.join(REMOTE_KINDS)} is expected.")
    for name in ("key", "wrapped"):
        text = members[name]
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_TEXT or not text.isprintable():
            raise KeyringError(f"{place}.{name}: a text is expected.")
    texts = cast(dict[str, Any], members)
    return WrappedKey(
        texts["provider"], texts["key"], texts["wrapped"], _key(members["check"], f"{place}.check")
    )


def _written(kek: Kek) -> object:
    if not isinstance(kek, WrappedKey):
        return _encode(kek)
    return {
        "provider": kek.provider,
        "key": kek.key,
        "wrapped": kek.wrapped,
        "check": _encode(kek.check),
    }


def _service(value: object) -> ServiceKeys:
    members = _object(value, "service", {*_SERVICE_KEYS, "signing"})
    signing = _object(members["signing"], "service.signing", {"kid", "key"})
    return ServiceKeys(
        **{name: _key(members[name], f"service.{name}") for name in _SERVICE_KEYS},
        signing=Ed25519PrivateKey.from_private_bytes(_key(signing["key"], "service.signing.key")),
        signing_kid=_name(signing["kid"], "service.signing.kid"),
    )


def _encode(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def _key(value: object, place: str) -> bytes:
    """Decode one key; only the one spelling that we write is taken."""
    key = b""
    if isinstance(value, str):
        try:
            key = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if len(key) != KEY_SIZE or _encode(key) != value:
        raise KeyringError(f"{place}: a key is {KEY_SIZE} bytes in base64.")
    return key
