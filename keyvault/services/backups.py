"""Making backups, and which keys they need. The only writer of the list of backups."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, F

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto import signed
from keyvault.crypto.archive import KIND, ArchiveWriter, creating
from keyvault.keystore import SYSTEM_ENVIRONMENT, installation_id, keys
from keyvault.models import AuditHead, Backup, ChangeCounter, KeyVersion
from keyvault.services import tables

_KIDS = ("kek_kid", "admin_kid")  # the columns that name a KEK


class CannotBackUp(Exception):
    """There is nothing that could be put back; the text says why."""


@dataclass(frozen=True)
class Made:
    """A backup that is whole and durable at ``path``."""

    path: Path
    manifest: Mapping[str, Any]


def make(actor: Actor, folder: Path, recipients: Sequence[str], *, keep: timedelta, now: datetime) -> Made:
    """Write one backup of everything in the database, sealed for the recipients, into ``folder``.

    The keyring is not in it. ``keep``: for how long it may be put back; until then no KEK that it needs
    should go. The list of backups knows of it before it has its name. Raises ``CannotBackUp``,
    ``SealedFileError`` for a recipient, ``OSError``.
    """
    if not tables.is_migrated():
        raise CannotBackUp("The database does not have every migration of this code: keyturn migrate.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    backup_id, installation = uuid.uuid4(), installation_id()
    path = folder / f"keyturn-{now:%Y%m%dT%H%M%SZ}-{str(backup_id)[:8]}.backup"
    with creating(path) as file:
        writer = ArchiveWriter(file, recipients)
        with tables.snapshot():
            for name, model in tables.tables().items():
                writer.add(name, tables.columns_of(model), tables.read(model))
            told = _told()
        manifest = signed.sign(
            keys().service,
            KIND,
            {
                **writer.describe(),
                **told,
                "id": str(backup_id),
                "installation": installation,
                "made_at": now.isoformat(),
                "expires_at": (now + keep).isoformat(),
                "keyturn": version("keyturn"),
                "database": connection.vendor,
                "migrations": tables.heads(),
            },
        )
        writer.finish(manifest)
        _note(actor, backup_id, manifest, keep=keep, now=now)
    return Made(path, manifest)


def _told() -> dict[str, Any]:
    """What a restore is compared with. Read in the snapshot of the rows."""
    head = AuditHead.objects.first()
    return {
        "audit": {"sequence": head.sequence if head else 0, "mac": bytes(head.mac).hex() if head else ""},
        "changes": ChangeCounter.objects.values_list("seq", flat=True).first() or 0,
        "keks": kids_in_use(),
    }


def kids_in_use() -> dict[str, dict[str, int]]:
    """How many rows each KEK is needed for, by environment."""
    found: dict[str, dict[str, int]] = {}
    for model in tables.tables().values():
        names = {field.attname for field in model._meta.concrete_fields}
        for column in names.intersection(_KIDS):
            rows = model._base_manager.exclude(**{column: ""}).order_by()
            if model is KeyVersion:
                counted = rows.values_list(F("key__environment__slug"), column).annotate(Count("pk"))
                each = [(environment, kid, count) for environment, kid, count in counted]
            else:
                per_kid = rows.values_list(column).annotate(Count("pk"))
                each = [(SYSTEM_ENVIRONMENT, kid, count) for kid, count in per_kid]
            for environment, kid, count in each:
                of = found.setdefault(environment, {})
                of[kid] = of.get(kid, 0) + count
    return found


def _note(
    actor: Actor, backup_id: uuid.UUID, manifest: Mapping[str, Any], *, keep: timedelta, now: datetime
) -> None:
    kids = sorted({kid for of in manifest["keks"].values() for kid in of})
    sequence = manifest["audit"]["sequence"]
    with transaction.atomic():
        Backup.objects.create(id=backup_id, made_at=now, expires_at=now + keep, kids=kids, sequence=sequence)
        audit.record(
            "backup:made", actor=actor, now=now, subject=str(backup_id), kids=kids, sequence=sequence
        )


def kids_in_backups(now: datetime) -> set[str]:
    """The KEKs that some backup needs which may still be put back: none of them may be given up."""
    return {kid for backup in Backup.objects.filter(expires_at__gt=now) for kid in backup.kids}


def key_set() -> dict[str, Any]:
    """The public half of the signing key in this keyring, as a JSON Web Key Set. Raises ``KeyringError``."""
    return signed.public_key_set(keys().service)


def missing_kids(needed: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Those of the needed KEKs that this process does not hold, as ``environment/kid``."""
    held = {kid for found in keys().keks.describe().values() for kid in found.kids}
    return sorted(f"{name}/{kid}" for name, kids in needed.items() for kid in kids if kid not in held)
