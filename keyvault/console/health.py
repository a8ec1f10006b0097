"""The health strip: scheduler, database and key service, each in one line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.keystore import keys
from keyvault.models import Heartbeat


@dataclass(frozen=True)
class HealthLine:
    """``tone`` is good, warn or bad; ``at`` is a moment to show instead of ``text``."""

    name: str
    tone: str
    text: str
    at: datetime | None = None


def health_lines(now: datetime, beat_at: datetime | None) -> list[HealthLine]:
    """``beat_at``: of the last heartbeat. That this answers at all is the database's line."""
    return [
        _scheduler(now, beat_at),
        HealthLine("Database", "good", _VENDORS[connection.vendor]),
        _key_service(),
    ]


_VENDORS = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


def last_beat() -> datetime | None:
    """When the scheduler ran last. One query."""
    return Heartbeat.objects.filter(name="beat").values_list("at", flat=True).first()


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
    return HealthLine("Key service", "good", "ready")
