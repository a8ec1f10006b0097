"""System checks: an unknown driver kind is an error, never a fallback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import OperationalError, ProgrammingError

from keyvault.models import Provider
from keyvault.services import quarantine
from rotation.drivers import DRIVERS


def every_driver_is_known(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Each provider names a driver that is registered. Runs with ``check --database default``."""
    if not databases:
        return []
    try:
        rows = list(Provider.objects.exclude(driver__in=DRIVERS).values_list("slug", "driver"))
    except (OperationalError, ProgrammingError):
        return []  # before the first migration there is nothing to check
    return [
        Error(
            f"Provider {slug} uses the driver {driver!r}, which is not registered.",
            hint=f"Registered: {', '.join(sorted(DRIVERS))}.",
            id="rotation.E001",
        )
        for slug, driver in rows
    ]


def nothing_is_in_quarantine(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """A restored database that nobody has reconciled delivers nothing, or not every key."""
    if not databases:
        return []
    try:
        everything, held = quarantine.everything(), quarantine.held_keys()
    except (OperationalError, ProgrammingError):
        return []
    if everything is not None:
        return [
            Warning(
                "The database was restored from a backup: no key is delivered.",
                hint="Run: keyturn restore_reconcile",
                id="rotation.W001",
            )
        ]
    if not held:
        return []
    names = ", ".join(str(row.key) for row in held)
    return [
        Warning(
            f"Held back since a restore: {names}.",
            hint="Run: keyturn restore_reconcile --supply SERVICE/ENV, or --keep SERVICE/ENV",
            id="rotation.W002",
        )
    ]


def install() -> None:
    """Register the checks; Django keeps each of them once."""
    register(every_driver_is_known, Tags.database)
    register(nothing_is_in_quarantine, Tags.database)
