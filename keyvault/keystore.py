"""The keys of this process and the identity of this installation, for code that has rows."""

from __future__ import annotations

import os
import uuid
from functools import lru_cache
from pathlib import Path
from typing import cast

from django.conf import settings
from django.utils import timezone

from keyvault.crypto.envelope import Context, IntegrityError, Sealed, open_sealed, seal
from keyvault.crypto.environment_keys import EnvironmentKeys
from keyvault.crypto.keyring import Keys, load_keys
from keyvault.crypto.keyring_document import Kek, random_kek
from keyvault.crypto.remote import LOCAL_KINDS, KekSettings, Place, RemoteKind, connect
from keyvault.crypto.secret import Secret
from keyvault.models import Installation, KeyVersion, Provider

SYSTEM_ENVIRONMENT = "system"
ADMIN_PURPOSE = "provider-admin"


@lru_cache(maxsize=4)
def _load(
    path: str, stamp: tuple[int, ...], text: str, environment_keys: EnvironmentKeys, generation: int
) -> Keys:
    # The state of the file is part of the cache key: a promoted KEK is used without a restart. So is the
    # generation: whoever holds what an environment key opened lets go of it when that key is forgotten.
    return load_keys(path=None if text else Path(path), text=text or None, environment_keys=environment_keys)


def keys() -> Keys:
    """The key-encryption keys and service keys of this process.

    Raises ``KeyringError`` or ``KeyServiceUnavailable`` when they cannot be had.
    """
    text: str = settings.KEYTURN_KEYRING_JSON
    path = str(settings.KEYTURN_KEYRING)
    held = environment_keys()
    return _load(path, () if text else _stamp(path), text, held, held.generation)


_environment_keys: tuple[KekSettings, int, EnvironmentKeys] | None = None


def environment_keys() -> EnvironmentKeys:
    """The environment keys of this process; a fork opens its own."""
    global _environment_keys
    wanted: KekSettings = settings.KEYTURN_KEK
    held = _environment_keys
    if held is None or held[0] is not wanted or held[1] != os.getpid():
        made = EnvironmentKeys(lambda kind: connect(kind, wanted.providers), stale=wanted.stale)
        held = _environment_keys = wanted, os.getpid(), made
    return held[2]


def new_kek(environment: str, kid: str, *, provider: str = "", key: str = "") -> Kek:
    """A KEK for a kid, at the provider that the settings name unless told otherwise.

    ``key`` is its name at a remote provider. Raises ``KeyringError`` or ``KeyServiceUnavailable``.
    """
    wanted: KekSettings = settings.KEYTURN_KEK
    provider = provider or wanted.provider_of(environment)
    if provider in LOCAL_KINDS:
        return random_kek(environment, kid)
    name = key or wanted.key_of(environment, provider)
    return environment_keys().make(cast(RemoteKind, provider), name, Place(environment, kid))


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when the file is replaced; two changes may share a modification time."""
    try:
        # Asked with every batch of deliveries: a Path would take ten times as long.
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size


_installation_id: uuid.UUID | None = None


def installation_id() -> str:
    """The immutable id of this installation; created by the first caller."""
    global _installation_id
    if _installation_id is None:
        row, _ = Installation.objects.get_or_create(singleton=True, defaults={"created_at": timezone.now()})
        _installation_id = row.id
    return str(_installation_id)


def forget_installation() -> None:
    """For tests that start with another database."""
    global _installation_id
    _installation_id = None


def version_context(version: KeyVersion) -> Context:
    key = version.key
    return context_of(service=key.service_id, environment=key.environment_id, key=key.id, version=version.id)


def context_of(*, service: uuid.UUID, environment: uuid.UUID, key: uuid.UUID, version: uuid.UUID) -> Context:
    """What the secret of a version is sealed in."""
    return Context(
        instance=installation_id(),
        purpose="key-version",
        service=str(service),
        environment=str(environment),
        key=str(key),
        version=str(version),
    )


def seal_version(version: KeyVersion, secret: Secret) -> None:
    """Put the secret into the row's columns (the row is not saved)."""
    environment = version.key.environment.slug
    sealed = seal(secret, version_context(version), environment=environment, keks=keys().keks)
    version.ciphertext, version.wrapped_dek, version.kek_kid = (
        sealed.ciphertext,
        sealed.wrapped_dek,
        sealed.kid,
    )


def sealed_of(version: KeyVersion) -> Sealed:
    if version.ciphertext is None or version.wrapped_dek is None:
        raise IntegrityError
    return Sealed(bytes(version.ciphertext), bytes(version.wrapped_dek), version.kek_kid)


def open_version(version: KeyVersion) -> Secret:
    """The secret of a version. Raises ``IntegrityError`` or ``KeyServiceUnavailable``."""
    environment = version.key.environment.slug
    return open_sealed(
        sealed_of(version), version_context(version), environment=environment, keks=keys().keks
    )


def system_context(purpose: str, row_id: str) -> Context:
    """What a row that belongs to no environment is sealed in."""
    return Context(installation_id(), purpose, "", "", row_id, "")


def seal_system(secret: Secret, *, purpose: str, row_id: str) -> Sealed:
    """Seal something that belongs to no environment: a driver credential, an idempotent reply."""
    return seal(secret, system_context(purpose, row_id), environment=SYSTEM_ENVIRONMENT, keks=keys().keks)


def open_system(sealed: Sealed, *, purpose: str, row_id: str) -> Secret:
    return open_sealed(
        sealed, system_context(purpose, row_id), environment=SYSTEM_ENVIRONMENT, keks=keys().keks
    )


def seal_admin_secret(provider: Provider, secret: Secret | None) -> None:
    """Put the credential of the provider's management API into the row (not saved)."""
    if secret is None:
        provider.admin_ciphertext, provider.admin_wrapped_dek, provider.admin_kid = None, None, ""
        return
    sealed = seal_system(secret, purpose=ADMIN_PURPOSE, row_id=str(provider.id))
    provider.admin_ciphertext, provider.admin_wrapped_dek, provider.admin_kid = (
        sealed.ciphertext,
        sealed.wrapped_dek,
        sealed.kid,
    )


def open_admin_secret(provider: Provider) -> Secret | None:
    if provider.admin_ciphertext is None or provider.admin_wrapped_dek is None:
        return None
    sealed = Sealed(bytes(provider.admin_ciphertext), bytes(provider.admin_wrapped_dek), provider.admin_kid)
    return open_system(sealed, purpose=ADMIN_PURPOSE, row_id=str(provider.id))
