"""How a key stands, in one word and a colour, for the matrix, the key page and the overview."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from keyvault import readers, verifiers
from keyvault.models import Key
from rotation.models import KeySchedule, Rotation

DUE_SOON = timedelta(days=7)
USE_SPAN = timedelta(days=30)


@dataclass(frozen=True)
class Standing:
    """``word`` is shown, ``tone`` is good, warn, bad, info or empty."""

    word: str
    tone: str


@dataclass(frozen=True)
class KeyLine:
    """One key with everything that a cell or a list line says about it."""

    key: Key
    standing: Standing
    rotation: Rotation | None
    schedule: KeySchedule | None
    last_used_at: datetime | None

    @property
    def due_at(self) -> datetime | None:
        return self.schedule.next_rotation_at if self.schedule else None

    @property
    def interval(self) -> timedelta | None:
        return self.schedule.policy.value.interval if self.schedule else None


def standing_of(key: Key, rotation: Rotation | None, schedule: KeySchedule | None, now: datetime) -> Standing:
    """The first that is true: compromised, needs a person, rotating, no version, overdue, due, healthy."""
    if key.current is not None and key.current.compromised_at is not None:
        return Standing("compromised", "bad")
    if rotation is not None and rotation.attention:
        return Standing("attention", "bad")
    if rotation is not None and rotation.is_open:
        return Standing("paused", "warn") if rotation.paused else Standing("rotating", "info")
    if key.current is None:
        return Standing("no version", "warn")
    due = schedule.next_rotation_at if schedule else None
    if due is not None and due <= now:
        return Standing("overdue", "bad")
    if due is not None and due <= now + DUE_SOON:
        return Standing("due", "warn")
    return Standing("healthy", "good")


def with_standing(keys: QuerySet[Key]) -> QuerySet[Key]:
    """The rows that ``lines`` needs, in one query."""
    return keys.select_related(
        "service__team", "service__provider", "environment", "current", "schedule__policy"
    )


def schedule_of(key: Key) -> KeySchedule | None:
    """The schedule that ``with_standing`` fetched, without a query for a key that has none."""
    found: KeySchedule | None = getattr(key, "schedule", None)
    return found


def lines(keys: Iterable[Key], now: datetime) -> list[KeyLine]:
    """Seven queries, however many keys there are (the keys themselves are the first)."""
    rows = list(keys)
    ids = [key.id for key in rows]
    busy = unfinished(ids)
    used = last_used(rows, now)
    found = []
    for key in rows:
        rotation, schedule = busy.get(key.id), schedule_of(key)
        standing = standing_of(key, rotation, schedule, now)
        found.append(KeyLine(key, standing, rotation, schedule, used.get(key.id)))
    return found


def unfinished(key_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Rotation]:
    """Per key the rotation that is open, or a finished one that still asks for a person."""
    rotations = Rotation.objects.filter(key_id__in=key_ids)
    left = rotations.open() | rotations.exclude(attention="")
    # Oldest first, so that of two the newer one is kept; an open one is always the newer.
    return {rotation.key_id: rotation for rotation in left.order_by("created_at")}


def last_used(keys: Iterable[Key], now: datetime) -> dict[uuid.UUID, datetime]:
    """When each key was last delivered, or verified if we issued it, within the last 30 days."""
    since, rows = now - USE_SPAN, list(keys)
    last = readers.last_of_keys([key.id for key in rows], since)
    issued = {
        version_id: key.id
        for key in rows
        if key.service.provider.driver == "generated"
        for version_id in (key.current_id, key.pending_id, key.previous_id)
        if version_id is not None
    }
    for version_id, at in verifiers.last_of_versions(issued.keys(), since).items():
        key_id = issued[version_id]
        last[key_id] = max(at, last.get(key_id, at))
    return last
