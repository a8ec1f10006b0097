"""Reading the audit trail in bulk is itself worth an event."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor


@transaction.atomic
def note_export(actor: Actor, *, form: str, filters: Iterable[str], now: datetime) -> None:
    """Somebody takes events away as a file. ``filters``: what narrowed it, without the words typed."""
    audit.record("audit:exported", actor=actor, now=now, form=form, filters=sorted(filters))
