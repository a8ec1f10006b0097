"""Trouble that lasts: opened and closed with the rotation's own events, in their transactions."""

from __future__ import annotations

import uuid
from datetime import datetime

from rotation.notice_rows import LEVELS, Channel, Incident, Notice

# What ends an incident by itself, whoever did it.
ENDINGS = frozenset({"attention:cleared", "resumed", "rollback", "finished"})


def begin(rotation_id: uuid.UUID, team_id: uuid.UUID, code: str, now: datetime) -> Incident:
    """A rotation needs a person from now on: its owners are being told. Call it under the rotation's lock."""
    close(rotation_id, "keyturn", now)
    incident = Incident(rotation_id=rotation_id, code=code[:32], opened_at=now, level=LEVELS[0])
    incident.next_at = next_look(incident, team_id, now)
    incident.save(force_insert=True)
    return incident


def announce(incident: Incident, team_id: uuid.UUID, now: datetime) -> None:
    """What was only watched is told to the owners now."""
    incident.level = LEVELS[0]
    incident.next_at = next_look(incident, team_id, now)
    incident.save(update_fields=["level", "next_at"])


def close(rotation_id: uuid.UUID, who: str, now: datetime) -> None:
    """Somebody acts, or there is nothing left to act on: nobody else is told."""
    Incident.objects.filter(rotation_id=rotation_id, closed_at__isnull=True).update(
        closed_at=now, closed_by=who, next_at=None
    )


def dedup_of(incident: Incident) -> str:
    return f"incident:{incident.id}"


def untold(incident: Incident, team_id: uuid.UUID) -> list[Channel]:
    """The channels above the owners' that have not heard of this incident."""
    told = Notice.objects.filter(dedup=dedup_of(incident)).values("channel_id")
    rows = Channel.objects.hearing(team_id).exclude(level=LEVELS[0]).exclude(pk__in=told)
    return sorted(rows, key=lambda channel: channel.due_for(incident.opened_at))


def next_look(incident: Incident, team_id: uuid.UUID, now: datetime) -> datetime | None:
    """When the next channel is to hear of it; None where everybody has."""
    waiting = untold(incident, team_id)
    return max(waiting[0].due_for(incident.opened_at), now) if waiting else None


def highest(channels: list[Channel]) -> str:
    return max((channel.level for channel in channels), key=LEVELS.index)
