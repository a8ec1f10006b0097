"""KEKs that never leave their provider: what each provider of them can do, and where it is found.

A remote KEK wraps one *environment key*, 256 random bits, and the environment key wraps data keys here
(``environment_keys``). So a provider is asked once in minutes, not once for every key that is delivered.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol, Self, get_args

from keyvault.crypto.errors import KeyringError
from keyvault.crypto.mac import lp

RemoteKind = Literal["transit", "kms", "pkcs11"]
REMOTE_KINDS: Final[tuple[str, ...]] = get_args(RemoteKind)
LOCAL_KINDS: Final = ("file", "env")  # the KEK stands in the keyring document
# Seconds for a connection, and for an answer.
PATIENCE: Final = 2.0


class Place(NamedTuple):
    """What an environment key is bound to: nobody else's opens under these names."""

    environment: str
    kid: str

    def aad(self) -> bytes:
        return lp("kv1/environment-key", self.environment, self.kid)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """An environment key as its provider wrapped it.

    ``key`` is the name of the KEK there. ``check`` tells whether what the provider answers is the
    environment key, without telling anything about it.
    """

    provider: RemoteKind
    key: str
    wrapped: str = field(repr=False)
    check: bytes = field(repr=False)


def check_of(key: bytes) -> bytes:
    """What tells an environment key from any other 256 bits."""
    return hmac.digest(key, lp("kv1/environment-key/check"), "sha256")


class RemoteKek(Protocol):
    """Both methods raise ``KeyServiceUnavailable`` for whatever goes wrong, and take seconds at most."""

    def wrap(self, key: str, plaintext: bytes, place: Place) -> str:
        """Wrap under the KEK of this name, bound to ``place``; printable text."""

    def unwrap(self, key: str, wrapped: str, place: Place) -> bytes:
        """Return what was wrapped. The provider refuses another place."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Where the providers are. Files are read at each use, so that what they hold can be replaced.

    AWS has settings of its own (AWS_REGION and so on), which its library reads.
    """

    transit_url: str = ""
    transit_mount: str = "transit"
    transit_namespace: str = ""
    transit_ca_file: str = ""
    transit_token_file: str = ""
    transit_role_id: str = ""
    transit_secret_id_file: str = ""
    transit_auth_mount: str = "approle"
    pkcs11_module: str = ""
    pkcs11_token: str = ""
    pkcs11_pin_file: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class KekSettings:
    """Where new KEKs are made, and how long one may go on without their provider.

    ``provider`` is a remote one, or ``file`` or ``env`` for KEKs that stand in the keyring document itself;
    ``exceptions`` are other choices by environment. ``key`` is the name of a remote KEK, in which
    ``{environment}`` stands for the environment; "" takes the provider's usual one. ``stale``: seconds.
    """

    providers: ProviderSettings = field(default_factory=ProviderSettings)
    provider: str = "file"
    exceptions: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    stale: float = 3600.0

    @classmethod
    def parse(cls, chosen: str, key: str, stale: float, providers: ProviderSettings) -> Self:
        """``chosen``: a provider, and others by environment, as in ``transit,dev=file``.

        Raises ``ValueError``.
        """
        default, exceptions = "file", {}
        for part in filter(None, (part.strip() for part in chosen.split(","))):
            environment, equals, provider = part.rpartition("=")
            if provider not in (*LOCAL_KINDS, *REMOTE_KINDS):
                known = ", ".join((*LOCAL_KINDS, *REMOTE_KINDS))
                raise ValueError(f"KEYTURN_KEK_PROVIDER: {provider} is not one of {known}.")
            if equals:
                exceptions[environment] = provider
            else:
                default = provider
        return cls(providers, default, exceptions, key, stale)

    def provider_of(self, environment: str) -> str:
        return self.exceptions.get(environment, self.provider)

    def key_of(self, environment: str, provider: str) -> str:
        """The name of the remote KEK of an environment."""
        usual = "alias/keyturn-{environment}" if provider == "kms" else "keyturn-{environment}"
        return (self.key or usual).replace("{environment}", environment)


def connect(kind: str, settings: ProviderSettings) -> RemoteKek:
    """The provider of this kind. Raises ``KeyringError`` that says which setting or package is missing."""
    # Imported where they are used: the libraries of the others need not be installed.
    if kind == "transit":
        from keyvault.crypto.remote_transit import Transit

        return Transit(settings)
    if kind == "kms":
        from keyvault.crypto.remote_kms import Kms

        return Kms()
    if kind == "pkcs11":
        from keyvault.crypto.remote_pkcs11 import Pkcs11

        return Pkcs11(settings)
    raise KeyringError(f"There is no KEK provider {kind}; there are {', '.join(REMOTE_KINDS)}.")


def read_secret_file(path: str, setting: str) -> str:
    """The one line of a file. Raises ``KeyringError`` that names the setting."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(64 * 1024).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyringError(f"{setting}: {path} cannot be read ({type(error).__name__}).") from None
    if not text:
        raise KeyringError(f"{setting}: {path} is empty.")
    return text
