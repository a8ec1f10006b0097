"""Moving data keys from one KEK to another. Reads go on; kill -9 anywhere leaves every row readable."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Model, QuerySet

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.canary import check_canary, make_canary
from keyvault.crypto.envelope import Sealed, rewrap
from keyvault.crypto.errors import IntegrityError, KeyServiceUnavailable
from keyvault.crypto.keyring import KekProvider
from keyvault.integrity import sign, verify
from keyvault.keystore import (
    ADMIN_PURPOSE,
    SYSTEM_ENVIRONMENT,
    installation_id,
    keys,
    sealed_of,
    system_context,
    version_context,
)
from keyvault.models import IdempotentReply, KekCanary, Key, KeyVersion, Provider, SecondFactorSeed
from keyvault.services.replies import PURPOSE as REPLY_PURPOSE
from keyvault.services.second_factors import PURPOSE as SEED_PURPOSE


@dataclass(frozen=True)
class Broken:
    """A row that was not moved; ``why``: ``integrity`` (it was changed) or ``unavailable`` (no KEK)."""

    table: str
    id: str
    kid: str
    why: str


@dataclass(frozen=True)
class Rewrapped:
    """What one run did: ``rows`` moved to ``kid``; ``broken`` ones were left as they are."""

    environment: str
    kid: str
    rows: int
    broken: tuple[Broken, ...] = ()


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


@dataclass
class _Table:
    """One kind of sealed row of an environment."""

    name: str
    kid_column: str
    rows: QuerySet[Model]
    move: Callable[[uuid.UUID, KekProvider], int]
    broken: dict[uuid.UUID, Broken] = field(default_factory=dict)

    def left(self, primary: str) -> list[uuid.UUID]:
        rows = self.rows.exclude(**{self.kid_column: primary}).exclude(pk__in=list(self.broken))
        return list(rows.order_by("pk").values_list("pk", flat=True))


def add_kek(actor: Actor, environment: str, *, now: datetime) -> str:
    """Add a fresh KEK to the keyring file and make it the primary; returns its kid.

    For installations whose processes read one file. Where each has a copy, the copies must have the
    new KEK before it is promoted. Raises ``KeyringError``.
    """
    held = keys().keks
    was = held.primary(environment)
    kid = held.add(environment)
    # The canary first: a KEK that does not work must not become the primary.
    ensure_canary(environment, kid, now=now)
    held.promote(environment, kid)
    with transaction.atomic():
        audit.record("kek:promoted", actor=actor, now=now, environment=environment, kid=kid, was=was)
    return kid


def rewrap_environment(actor: Actor, environment: str, *, now: datetime, batch: int = 200) -> Rewrapped:
    """Wrap every data key of this environment under its primary KEK.

    One short transaction per row: the rows themselves say what is left, so it can be run again after
    any interruption. A row that does not open is reported and does not stop the others. Every ``batch``
    rows an audit event says how many were moved. Raises ``KeyServiceUnavailable`` for an environment
    that this process does not hold.
    """
    kid = keys().keks.primary(environment)
    ensure_canary(environment, kid, now=now)
    moved = unrecorded = 0
    tables = _tables(environment)
    while True:
        changed = 0
        for table in tables:
            for row_id in table.left(keys().keks.primary(environment)):
                done = _move(table, row_id, environment)
                changed, unrecorded = changed + done, unrecorded + done
                if unrecorded >= batch:
                    _record(actor, environment, unrecorded, now)
                    unrecorded = 0
        moved += changed
        if not changed:  # nothing more came in under an older KEK meanwhile
            break
    _record(actor, environment, unrecorded, now)
    broken = tuple(one for table in tables for one in table.broken.values())
    return Rewrapped(environment, keys().keks.primary(environment), moved, broken)


def _record(actor: Actor, environment: str, rows: int, now: datetime) -> None:
    if rows:
        kid = keys().keks.primary(environment)
        with transaction.atomic():
            audit.record("kek:rewrapped", actor=actor, now=now, environment=environment, kid=kid, rows=rows)


def _move(table: _Table, row_id: uuid.UUID, environment: str) -> int:
    """Move one row; returns 1 if it was written. A row that does not open is noted as broken."""
    # Read anew for each row: another process may promote a KEK while this one runs.
    keks = keys().keks
    try:
        return table.move(row_id, keks)
    except IntegrityError:
        why = "integrity"
    except KeyServiceUnavailable:
        why = "unavailable"
    kid = table.rows.filter(pk=row_id).values_list(table.kid_column, flat=True).first()
    table.broken[row_id] = Broken(table.name, str(row_id), str(kid or ""), why)
    return 0


def _tables(environment: str) -> list[_Table]:
    if environment == SYSTEM_ENVIRONMENT:
        return [
            _Table(
                "provider",
                "admin_kid",
                Provider.objects.filter(admin_ciphertext__isnull=False),
                _move_admin_secret,
            ),
            *(
                _Table(held.name, "kek_kid", held.rows, partial(_move_system_row, held))
                for held in _system_rows.values()
            ),
        ]
    versions = KeyVersion.objects.filter(key__environment__slug=environment, ciphertext__isnull=False)
    return [_Table("version", "kek_kid", versions, _move_version)]


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
    if row.admin_ciphertext is None or row.admin_wrapped_dek is None:
        return 0
    sealed = Sealed(bytes(row.admin_ciphertext), bytes(row.admin_wrapped_dek), row.admin_kid)
    moved = _rewrap_system(sealed, ADMIN_PURPOSE, provider_id, keks)
    # Compare-and-swap: a credential that was replaced meanwhile is left alone.
    unchanged = Provider.objects.filter(pk=provider_id, admin_wrapped_dek=sealed.wrapped_dek)
    return unchanged.update(admin_wrapped_dek=moved.wrapped_dek, admin_kid=moved.kid)


def _move_system_row(held: SystemRows, row_id: uuid.UUID, keks: KekProvider) -> int:
    row = held.rows.filter(pk=row_id).first()
    if row is None:
        return 0  # forgotten, or taken over by a new request
    sealed = Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek), row.kek_kid)
    moved = _rewrap_system(sealed, held.purpose, row_id, keks)
    # Compare-and-swap: one that was replaced meanwhile is left alone.
    unchanged = held.rows.filter(pk=row_id, wrapped_dek=sealed.wrapped_dek)
    return unchanged.update(wrapped_dek=moved.wrapped_dek, kek_kid=moved.kid)


def _rewrap_system(sealed: Sealed, purpose: str, row_id: uuid.UUID, keks: KekProvider) -> Sealed:
    return rewrap(sealed, system_context(purpose, str(row_id)), environment=SYSTEM_ENVIRONMENT, keks=keks)


# Canaries ------------------------------------------------------------------------------------------


def ensure_canary(environment: str, kid: str, *, now: datetime) -> None:
    """A canary for this KEK, made where there is none yet."""
    if KekCanary.objects.filter(kid=kid).exists():
        return
    sealed = make_canary(keys().keks, environment, kid, installation_id())
    KekCanary.objects.get_or_create(
        kid=kid,
        defaults={
            "environment": environment,
            "ciphertext": sealed.ciphertext,
            "wrapped_dek": sealed.wrapped_dek,
            "created_at": now,
        },
    )


def check_canaries(*, now: datetime) -> list[str]:
    """Open the canary of every KEK this process holds; make missing ones. Returns the kids.

    Raises ``IntegrityError`` where a kid does not open its canary: the keyring belongs to another
    installation or was changed.
    """
    checked = []
    for environment, description in keys().keks.describe().items():
        for kid in description.kids:
            ensure_canary(environment, kid, now=now)
            row = KekCanary.objects.get(kid=kid)
            sealed = Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek), kid)
            check_canary(keys().keks, environment, kid, installation_id(), sealed)
            checked.append(kid)
    return checked
