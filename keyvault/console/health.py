"""The health strip: scheduler, database and key service, each in one line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import Exists

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.keystore import environment_keys, keys
from keyvault.models import Heartbeat, Quarantine
from keyvault.services import beats


@dataclass(frozen=True)
class HealthLine:
    """``tone`` is good, warn or bad; ``at`` is a moment to show instead of ``text``."""

    name: str
    tone: str
    text: str
    at: datetime | None = None


def health_lines(now: datetime, beat: Beat) -> list[HealthLine]:
    """That this answers at all is the database's line."""
    return [
        _scheduler(now, beat.at),
        HealthLine("Database", "bad", "in quarantine")
        if beat.some
        else HealthLine("Database", "good", _VENDORS[connection.vendor]),
        _key_service(),
    ]


_VENDORS = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


class Beat(NamedTuple):
    """When the scheduler ran last; whether a restore holds back everything, or some keys."""

    at: datetime | None
    everything: bool
    some: bool


def last_beat() -> Beat:
    """One query, where the scheduler ever ran."""
    held = Quarantine.objects.order_by()
    rows = Heartbeat.objects.filter(name=beats.BEAT).annotate(
        everything=Exists(held.filter(key__isnull=True)), some=Exists(held)
    )
    found = rows.values_list("at", "everything", "some").first()
    if found is None:
        return Beat(None, held.filter(key__isnull=True).exists(), held.exists())
    return Beat(*found)


def is_late(now: datetime, beat_at: datetime | None) -> bool:
    """Whether the scheduler has missed its beat: three intervals and more."""
    return beat_at is None or (now - beat_at).total_seconds() > settings.KEYTURN_HEARTBEAT_MAX_AGE


def _scheduler(now: datetime, at: datetime | None) -> HealthLine:
    if at is None:
        return HealthLine("Scheduler", "bad", "never ran")
    late = is_late(now, at)
    return HealthLine("Scheduler", "bad", "late", at) if late else HealthLine("Scheduler", "good", "", at)


def _key_service() -> HealthLine:
    try:
        keys().keks.health()
    except (KeyServiceUnavailable, KeyringError):
        return HealthLine("Key service", "bad", "unavailable")
    if any(one.stale for one in environment_keys().states()):
        return HealthLine("Key service", "warn", "provider down, reading only")
    return HealthLine("Key service", "good", "ready")
