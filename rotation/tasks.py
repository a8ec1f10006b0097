"""Celery entrances of rotation. Ids only; the clock is read here; the database says what is due."""

from __future__ import annotations

import uuid

import structlog
from celery import shared_task
from django.db import transaction
from django.db.models import Q
from kombu.exceptions import OperationalError

from keyvault import clock
from keyvault.models import Heartbeat
from rotation import engine, operations
from rotation.facts import OperationState
from rotation.models import Operation, Rotation
from rotation.services import starting

log = structlog.get_logger("keyturn.tasks")

BATCH = 500


def ring(operation_id: uuid.UUID) -> None:
    """Wake a worker for one operation. A broker that is away costs one tick, nothing more."""
    try:
        perform.delay(str(operation_id))
    except (OperationalError, OSError) as error:
        log.warning("broker unreachable, the next tick will do it", error=type(error).__name__)


@shared_task(name="rotation.tasks.perform")
def perform(operation_id: str) -> bool:
    """Carry out one operation if it is due."""
    return operations.perform(uuid.UUID(operation_id), clock.now())


@shared_task(name="rotation.tasks.tick")
def tick() -> int:
    """One beat: start what is due, free what died, move every rotation that is due, ring for every operation
    that is due. Returns how many rotations it looked at."""
    now = clock.now()
    Heartbeat.objects.update_or_create(name="beat", defaults={"at": now})
    starting.start_due(now)
    woken = operations.sweep(now)
    due = Q(check_at__lte=now) | Q(id__in=woken)
    ids = list(Rotation.objects.filter(due).order_by("check_at").values_list("id", flat=True)[:BATCH])
    for rotation_id in ids:
        _advance(rotation_id)
    for operation_id in Operation.objects.filter(
        state=OperationState.PENDING, retry_at__lte=clock.now()
    ).values_list("id", flat=True)[:BATCH]:
        ring(operation_id)
    return len(ids)


def _advance(rotation_id: uuid.UUID) -> None:
    """One rotation that cannot go on must not stop the others; it is looked at again in a minute."""
    now = clock.now()
    try:
        engine.advance(rotation_id, now)
    except Exception:
        log.exception("a rotation could not advance", rotation=str(rotation_id))
        with transaction.atomic():
            Rotation.objects.filter(pk=rotation_id).update(check_at=engine.retry_after_failure(now))
