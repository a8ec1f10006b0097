"""Dates of keys: set, brought forward, held, and started when they are due."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from keyvault.prepared import prepared
from keyvault.services import keys as key_services
from rotation import engine
from rotation.dates import rehearsal_missing
from rotation.models import KeySchedule, Rotation
from rotation.plan import no_room
from rotation.services import starting

log = structlog.get_logger("keyturn.rotation")

# A due key that something stands in the way of is looked at again after this long, or when it says.
MOST = 500  # in one beat
LOOK_AGAIN = timedelta(hours=1)


@prepared
def _due(now: datetime) -> QuerySet[KeySchedule]:
    due = KeySchedule.objects.filter(Q(held_until__isnull=True) | Q(held_until__lte=now))
    return due.filter(next_rotation_at__lte=now).order_by("next_rotation_at")[:MOST]


def start_due(now: datetime, *, ring: engine.Ring | None = None) -> list[uuid.UUID]:
    """Start what is due. A key that cannot start keeps its date, with the reason; it is looked at again."""
    started = []
    for schedule in _due(now):
        rotation = start_one(schedule, now, ring=ring)
        if rotation is not None:
            started.append(rotation.id)
    return started


@transaction.atomic
def start_one(schedule: KeySchedule, now: datetime, *, ring: engine.Ring | None = None) -> Rotation | None:
    """Start the rotation of one due key, or hold it; None where it is held, or was taken by another.

    ``schedule``: the row as it was read. Of two schedulers that read the same one, the second does nothing.
    """
    key = key_services.lock_key(schedule.key_id)  # before the schedule, as everybody does
    held = Q(held_until__isnull=True) if schedule.held_until is None else Q(held_until=schedule.held_until)
    seen = KeySchedule.objects.filter(held, pk=schedule.pk, next_rotation_at=schedule.next_rotation_at)
    # Compare-and-swap. The date itself stays: whatever happens here, it is not lost.
    if not seen.update(held_until=now + LOOK_AGAIN):
        return None
    row = KeySchedule.objects.select_related("policy").get(pk=schedule.pk)
    obstacle = _standing_in_the_way(key, row, now)
    if obstacle is not None:
        _hold(row, key, *obstacle, now=now)
        return None
    try:
        with transaction.atomic():
            rotation = starting.start(
                SYSTEM, key, policy=row.policy, reason=row.reason, trigger=row.trigger, now=now, ring=ring
            )
    except KeyturnError as error:
        _hold(row, key, error.code, error.message, now + LOOK_AGAIN, now=now)
        return None
    KeySchedule.objects.filter(pk=row.pk).update(held_code="", held_reason="")
    return rotation


def _standing_in_the_way(key: Key, row: KeySchedule, now: datetime) -> tuple[str, str, datetime] | None:
    """Code, reason, and when to look again, for a key that must not start now."""
    other = Rotation.objects.open().filter(key=key).first()
    if other is not None:
        reason = f"Its rotation of {other.created_at:%Y-%m-%d %H:%M} UTC is still open ({other.stage})."
        return "rotation_in_progress", reason, now + LOOK_AGAIN
    policy = row.policy.value
    shut = policy.closed(now)
    if shut is not None:
        return "window", f"Not now: {shut.reason}.", shut.until or now + LOOK_AGAIN
    narrow = no_room(key, policy)
    if narrow:
        return "quota", narrow, now + LOOK_AGAIN
    lacking = rehearsal_missing(key, policy, now)
    if lacking is not None:
        return "rehearsal", lacking, now + LOOK_AGAIN
    return None


def _hold(row: KeySchedule, key: Key, code: str, reason: str, until: datetime, *, now: datetime) -> None:
    """Keep the date and say why. The audit hears of it once for each reason."""
    changed = row.held_code != code
    row.held_until, row.held_code, row.held_reason = until, code, reason[:500]
    row.save(update_fields=["held_until", "held_code", "held_reason"])
    if changed:
        log.info("due key not started", key=str(key.id), code=code)
        audit.record(
            "schedule:held", actor=SYSTEM, now=now, key=key, reason=reason, code=code, until=until.isoformat()
        )
