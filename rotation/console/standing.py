"""How a key stands, in one word and a colour, for the matrix, the key page and the overview."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max, QuerySet

from keyvault.models import Delivery, Key, UsageBucket
from rotation.models import KeySchedule, Rotation

DUE_SOON = timedelta(days=7)
DELIVERY_SPAN = timedelta(days=30)


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
    last_delivery_at: datetime | None

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
    """Four queries, however many keys there are (the keys themselves are the first)."""
    rows = list(keys)
    ids = [key.id for key in rows]
    busy = unfinished(ids)
    seen = last_deliveries(ids, now)
    found = []
    for key in rows:
        rotation, schedule = busy.get(key.id), schedule_of(key)
        standing = standing_of(key, rotation, schedule, now)
        found.append(KeyLine(key, standing, rotation, schedule, seen.get(key.id)))
    return found


def unfinished(key_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Rotation]:
    """Per key the rotation that is open, or a finished one that still asks for a person."""
    rotations = Rotation.objects.filter(key_id__in=key_ids)
    left = rotations.open() | rotations.exclude(attention="")
    # Oldest first, so that of two the newer one is kept; an open one is always the newer.
    return {rotation.key_id: rotation for rotation in left.order_by("created_at")}


def last_deliveries(key_ids: Collection[uuid.UUID], now: datetime) -> dict[uuid.UUID, datetime]:
    """When each key was last delivered, within the last 30 days."""
    folded = UsageBucket.objects.filter(key_id__in=key_ids, minute__gt=now - DELIVERY_SPAN)
    fresh = Delivery.objects.filter(key_id__in=key_ids, folded=False)
    last = dict(folded.order_by().values_list("key_id").annotate(Max("last_delivery_at")))
    for key_id, at in fresh.order_by().values_list("key_id").annotate(Max("at")):
        last[key_id] = max(at, last.get(key_id, at))
    return last
