"""When each part of Keyturn was last seen alive, and whose turn it is to do what is done now and then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from keyvault.models import Heartbeat
from keyvault.upsert import insert

BEAT: Final = "beat"  # of the scheduler, which does whatever is due


def note(name: str, now: datetime) -> None:
    """This part was at work at this time."""
    insert(Heartbeat(name=name, at=now), "ON CONFLICT (name) DO UPDATE SET at = excluded.at")


def last(name: str) -> datetime | None:
    """When this part was last at work; None when it never was."""
    return Heartbeat.objects.filter(name=name).values_list("at", flat=True).first()


def claim(name: str, *, every: timedelta, now: datetime) -> bool:
    """Whether the caller is the one who does it now. Of all who ask, one is in each such time."""
    mark, created = Heartbeat.objects.get_or_create(name=name, defaults={"at": now})
    due = Heartbeat.objects.filter(name=name, at=mark.at, at__lte=now - every)
    return created or due.update(at=now) == 1
