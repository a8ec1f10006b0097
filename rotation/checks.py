"""System checks: an unknown driver kind is an error, never a fallback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import OperationalError, ProgrammingError

from keyvault.models import Provider
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


def install() -> None:
    """Register the checks; Django keeps each of them once."""
    register(every_driver_is_known, Tags.database)
