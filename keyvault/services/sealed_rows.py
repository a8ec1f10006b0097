"""Every kind of row that is sealed under a KEK: which there are, how one is opened, how one is moved.

Rewrapping, verifying and retiring all go by this list, so a kind that is missing here would be lost with
the KEK that it is sealed under.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import transaction
from django.db.models import Model, QuerySet

from keyvault.crypto.envelope import Context, Sealed, open_sealed, rewrap
from keyvault.crypto.keyring import KekProvider
from keyvault.integrity import sign, verify
from keyvault.keystore import (
    ADMIN_PURPOSE,
    SYSTEM_ENVIRONMENT,
    sealed_of,
    system_context,
    version_context,
)
from keyvault.models import IdempotentReply, Key, KeyVersion, Provider, SecondFactorSeed
from keyvault.services.replies import PURPOSE as REPLY_PURPOSE
from keyvault.services.second_factors import PURPOSE as SEED_PURPOSE

_AT_ONCE: Final = 500


@dataclass(frozen=True)
class SystemRows:
    """Rows sealed under the system KEK, in the columns ``ciphertext``, ``wrapped_dek`` and ``kek_kid``."""

    name: str
    purpose: str
    rows: QuerySet[Any]


_system_rows = {
    "reply": SystemRows("reply", REPLY_PURPOSE, IdempotentReply.objects.filter(ciphertext__isnull=False)),
    "seed": SystemRows("seed", SEED_PURPOSE, SecondFactorSeed.objects.all()),
}


def join(rows: SystemRows) -> None:
    """Another app seals rows too. Called once, when it is ready."""
    _system_rows[rows.name] = rows


@dataclass(frozen=True)
class Table:
    """One kind of sealed row of an environment.

    ``move`` wraps the data key of one row under the primary KEK and returns 1 if it was written. ``open``
    raises ``IntegrityError`` or ``KeyServiceUnavailable`` for a row that does not open.
    """

    name: str
    kid_column: str
    rows: QuerySet[Any]
    move: Callable[[uuid.UUID, KekProvider], int]
    open: Callable[[Any, KekProvider], None]

    def kid_of(self, row: Model) -> str:
        return str(getattr(row, self.kid_column) or "")

    def by_primary_key(self) -> Iterator[Any]:
        """Every row, however many; no transaction stays open meanwhile."""
        ordered = self.rows.order_by("pk")
        found = list(ordered[:_AT_ONCE])
        while found:
            yield from found
            found = list(ordered.filter(pk__gt=found[-1].pk)[:_AT_ONCE])


def tables(environment: str) -> list[Table]:
    """The kinds of an environment; the system's are those that belong to none."""
    if environment == SYSTEM_ENVIRONMENT:
        admin = Provider.objects.filter(admin_ciphertext__isnull=False)
        return [
            Table("provider", "admin_kid", admin, _move_admin_secret, _open_admin_secret),
            *(
                Table(held.name, "kek_kid", held.rows, partial(_move_row, held), partial(_open_row, held))
                for held in _system_rows.values()
            ),
        ]
    versions = KeyVersion.objects.filter(key__environment__slug=environment, ciphertext__isnull=False)
    versions = versions.select_related("key__environment", "key__service")
    return [Table("version", "kek_kid", versions, _move_version, _open_version)]


# Opening -------------------------------------------------------------------------------------------


def _open_version(version: KeyVersion, keks: KekProvider) -> None:
    verify(version)
    environment = version.key.environment.slug
    open_sealed(sealed_of(version), version_context(version), environment=environment, keks=keks)


def _open_admin_secret(row: Provider, keks: KekProvider) -> None:
    _open_system(_sealed_admin_secret(row), ADMIN_PURPOSE, row.pk, keks)


def _open_row(held: SystemRows, row: Any, keks: KekProvider) -> None:
    _open_system(_sealed(row), held.purpose, row.pk, keks)


def _open_system(sealed: Sealed, purpose: str, row_id: uuid.UUID, keks: KekProvider) -> None:
    open_sealed(sealed, _context(purpose, row_id), environment=SYSTEM_ENVIRONMENT, keks=keks)


# Moving --------------------------------------------------------------------------------------------


@transaction.atomic
def _move_version(version_id: uuid.UUID, keks: KekProvider) -> int:
    # The key is locked first, as everybody does who writes a version: nobody holds an older copy of
    # this row while it is changed.
    Key.objects.select_for_update(of=("self",)).get(versions=version_id)
    version = KeyVersion.objects.select_related("key__environment", "key__service").get(pk=version_id)
    environment = version.key.environment.slug
    if version.ciphertext is None or version.kek_kid == keks.primary(environment):
        return 0
    verify(version)
    sealed = rewrap(sealed_of(version), version_context(version), environment=environment, keks=keks)
    version.wrapped_dek, version.kek_kid = sealed.wrapped_dek, sealed.kid
    sign(version)
    version.save(update_fields=["wrapped_dek", "kek_kid", "mac"])
    return 1


def _move_admin_secret(provider_id: uuid.UUID, keks: KekProvider) -> int:
    row = Provider.objects.get(pk=provider_id)
    if row.admin_ciphertext is None:
        return 0
    sealed = _sealed_admin_secret(row)
    moved = _rewrap_system(sealed, ADMIN_PURPOSE, provider_id, keks)
    # Compare-and-swap: a credential that was replaced meanwhile is left alone.
    unchanged = Provider.objects.filter(pk=provider_id, admin_wrapped_dek=sealed.wrapped_dek)
    return unchanged.update(admin_wrapped_dek=moved.wrapped_dek, admin_kid=moved.kid)


def _move_row(held: SystemRows, row_id: uuid.UUID, keks: KekProvider) -> int:
    row = held.rows.filter(pk=row_id).first()
    if row is None:
        return 0  # forgotten, or taken over by a new request
    sealed = _sealed(row)
    moved = _rewrap_system(sealed, held.purpose, row_id, keks)
    # Compare-and-swap: one that was replaced meanwhile is left alone.
    unchanged = held.rows.filter(pk=row_id, wrapped_dek=sealed.wrapped_dek)
    return unchanged.update(wrapped_dek=moved.wrapped_dek, kek_kid=moved.kid)


def _rewrap_system(sealed: Sealed, purpose: str, row_id: uuid.UUID, keks: KekProvider) -> Sealed:
    return rewrap(sealed, _context(purpose, row_id), environment=SYSTEM_ENVIRONMENT, keks=keks)


def _context(purpose: str, row_id: uuid.UUID) -> Context:
    return system_context(purpose, str(row_id))


def _sealed_admin_secret(row: Provider) -> Sealed:
    return Sealed(bytes(row.admin_ciphertext or b""), bytes(row.admin_wrapped_dek or b""), row.admin_kid)


def _sealed(row: Any) -> Sealed:
    return Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek or b""), row.kek_kid)
