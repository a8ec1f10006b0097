"""Moving data keys from one KEK to another. Reads go on; kill -9 anywhere leaves every row readable."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.canary import check_canary, make_canary
from keyvault.crypto.envelope import Sealed, rewrap
from keyvault.integrity import sign, verify
from keyvault.keystore import installation_id, keys, sealed_of, version_context
from keyvault.models import KekCanary, KeyVersion


def rewrap_environment(actor: Actor, environment: str, *, now: datetime, batch: int = 200) -> int:
    """Wrap every data key of this environment under its primary KEK; returns how many rows changed.

    One short transaction per row: the rows themselves say what is left, so it can be run again.
    """
    keks = keys().keks
    primary = keks.primary(environment)
    ensure_canary(environment, primary, now=now)
    left = KeyVersion.objects.filter(key__environment__slug=environment, ciphertext__isnull=False).exclude(
        kek_kid=primary
    )
    changed = 0
    while ids := list(left.order_by("id").values_list("id", flat=True)[:batch]):
        for version_id in ids:
            changed += _rewrap_one(version_id, environment, primary)
    if changed:
        with transaction.atomic():
            audit.record(
                "kek:rewrapped", actor=actor, now=now, environment=environment, kid=primary, rows=changed
            )
    return changed


@transaction.atomic
def _rewrap_one(version_id: object, environment: str, primary: str) -> int:
    version = (
        KeyVersion.objects.select_for_update(of=("self",))
        .select_related("key__environment", "key__service")
        .get(pk=version_id)
    )
    if version.kek_kid == primary or version.ciphertext is None:
        return 0
    verify(version)
    moved = rewrap(sealed_of(version), version_context(version), environment=environment, keks=keys().keks)
    version.wrapped_dek, version.kek_kid = moved.wrapped_dek, moved.kid
    sign(version)
    version.save(update_fields=["wrapped_dek", "kek_kid", "mac"])
    return 1


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
