"""One beat of the scheduler. What is due stands in the database; any number of schedulers may run this."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet

from keyvault.models import Heartbeat
from keyvault.prepared import prepared
from keyvault.services import beats, quarantine
from rotation import engine, operations
from rotation.facts import OperationState
from rotation.glance import glance
from rotation.models import Operation, Rotation
from rotation.monitored import JUMP
from rotation.services import exposure, restoring, runs, scheduling

log = structlog.get_logger("keyturn.tick")

BATCH = 500
MOST_BATCHES = 40  # in one beat; the next one goes on
AFTER_FAILURE = timedelta(minutes=1)


def tick(now: datetime, *, ring: engine.Ring) -> int:
    """Go on with emergencies, start what is due, free what died, move what is due, ring for every operation.

    Returns how many rotations were looked at.
    """
    _catch_up(now)
    beats.note(beats.BEAT, now)
    if quarantine.everything() is not None:
        log.error("in quarantine since a restore: no rotation goes on", next=restoring.NEXT)
        return 0
    # What leaked goes before what is merely due.
    for part in (partial(runs.carry_on, ring=ring), exposure.look, partial(scheduling.start_due, ring=ring)):
        try:
            part(now)
        except Exception:
            # Rotations that are open go on all the same; the next beat tries this again.
            log.exception("a part of the beat failed", part=str(part))
    woken = operations.sweep(now)
    looked_at = _look_at_due(woken, now, ring)
    for operation_id in _pending(now):
        ring(operation_id)
    return looked_at


@prepared
def _due(now: datetime) -> QuerySet[Rotation, uuid.UUID]:
    due = Rotation.objects.filter(check_at__lte=now).order_by("check_at")
    return due.values_list("id", flat=True)[:BATCH]


@prepared
def _due_or_woken(now: datetime, woken: Collection[uuid.UUID]) -> QuerySet[Rotation, uuid.UUID]:
    due = Rotation.objects.filter(Q(check_at__lte=now) | Q(id__in=woken)).order_by("check_at")
    return due.values_list("id", flat=True)[:BATCH]


@prepared
def _pending(now: datetime) -> QuerySet[Operation, uuid.UUID]:
    pending = Operation.objects.filter(state=OperationState.PENDING, retry_at__lte=now)
    return pending.order_by("retry_at").values_list("id", flat=True)[:BATCH]


@prepared
def _beat_after(moment: datetime) -> QuerySet[Heartbeat, datetime]:
    return Heartbeat.objects.filter(name=beats.BEAT, at__gt=moment).values_list("at", flat=True)[:1]


def _look_at_due(woken: Collection[uuid.UUID], now: datetime, ring: engine.Ring) -> int:
    """Batch after batch, until nothing is due that was not looked at in this beat."""
    seen: set[uuid.UUID] = set()
    for _ in range(MOST_BATCHES):
        first = _due_or_woken(now, woken) if woken else _due(now)
        ids = [rotation_id for rotation_id in first if rotation_id not in seen]
        if not ids:
            break
        seen.update(ids)
        for rotation_id in _glance(ids, now):
            _advance(rotation_id, now, ring)
    return len(seen)


def _glance(ids: list[uuid.UUID], now: datetime) -> list[uuid.UUID]:
    try:
        return glance(ids, now)
    except Exception:
        # Whichever it is that cannot be looked at: alone it holds up nobody.
        log.exception("rotations could not be looked at together", rotations=len(ids))
        return ids


def _advance(rotation_id: uuid.UUID, now: datetime, ring: engine.Ring) -> None:
    try:
        engine.advance(rotation_id, now, ring=ring)
    except Exception:
        # One rotation that cannot go on must not stop the others; it is looked at again soon.
        log.exception("a rotation could not advance", rotation=str(rotation_id))
        _postpone(rotation_id, now)


def _catch_up(now: datetime) -> None:
    """After the database's clock went back everything would be due only when it has come there again."""
    beat = _beat_after.first(now + JUMP)
    if beat is None:
        return
    log.warning("the clock of the database went back", seconds=round((beat - now).total_seconds()))
    with transaction.atomic():
        Rotation.objects.filter(check_at__gt=now, check_at__lte=beat + JUMP).update(check_at=now)
        waiting = Operation.objects.filter(state=OperationState.PENDING)
        waiting.filter(retry_at__gt=now, retry_at__lte=beat + JUMP).update(retry_at=now)


@transaction.atomic
def _postpone(rotation_id: uuid.UUID, now: datetime) -> None:
    Rotation.objects.filter(pk=rotation_id, check_at__isnull=False).update(check_at=now + AFTER_FAILURE)
