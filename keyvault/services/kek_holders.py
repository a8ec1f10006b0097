"""Which processes are alive, and which KEKs each of them knows.

A KEK may become the primary only when everybody can read what is sealed under it. Processes that read one
keyring file know a new kid at once; those with copies, or with the document in their environment, do not.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction

from keyvault.keystore import keys
from keyvault.models import KekHolder

# Seconds between two reports of a process, and without one after which it counts as dead.
EVERY: Final = 15.0
DEAD_AFTER: Final = timedelta(seconds=60)


@dataclass(frozen=True)
class Holder:
    """A process and what it holds. ``primaries``: the kid that it seals under, by environment."""

    title: str
    kids: frozenset[str]
    primaries: dict[str, str]
    at: datetime


def report(holder: uuid.UUID, title: str, *, now: datetime) -> None:
    """This process is alive, and holds this. Raises ``KeyringError`` when its keyring cannot be read."""
    held: dict[str, Any] = {
        name: {"primary": one.primary, "kids": list(one.kids)} for name, one in keys().keks.describe().items()
    }
    with transaction.atomic():
        KekHolder.objects.update_or_create(pk=holder, defaults={"title": title, "held": held, "at": now})
        KekHolder.objects.filter(at__lte=now - 10 * DEAD_AFTER).delete()


def leave(holder: uuid.UUID) -> None:
    """This process ends."""
    KekHolder.objects.filter(pk=holder).delete()


def live(now: datetime) -> list[Holder]:
    """Those that have been heard of within a minute."""
    return [
        Holder(
            row.title,
            frozenset(kid for one in row.held.values() for kid in one["kids"]),
            {environment: one["primary"] for environment, one in row.held.items()},
            row.at,
        )
        for row in KekHolder.objects.filter(at__gt=now - DEAD_AFTER).order_by("title", "pk")
    ]
