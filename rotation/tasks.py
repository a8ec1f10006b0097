"""Celery entrances of rotation. Ids only; the clock is read here; the database says what is due."""

from __future__ import annotations

import uuid

import structlog
from celery import shared_task
from kombu.exceptions import OperationalError

from keyvault import clock
from rotation import operations
from rotation.notices.delivering import step
from rotation.services import anchoring, drifting, notifying, proving, restoring, ticking

log = structlog.get_logger("keyturn.tasks")

IN_ONE_TASK = 20  # tries on one channel, before others have their turn


def ring(operation_id: uuid.UUID) -> None:
    """Wake a worker for one operation. A broker that is away costs one tick, nothing more."""
    try:
        perform.delay(str(operation_id))
    except (OperationalError, OSError) as error:
        log.warning("broker unreachable, the next tick will do it", error=type(error).__name__)


def ring_channel(channel_id: uuid.UUID) -> None:
    """Wake a worker for one channel."""
    try:
        notify.delay(str(channel_id))
    except (OperationalError, OSError) as error:
        log.warning("broker unreachable, the next tick will do it", error=type(error).__name__)


@shared_task(name="rotation.tasks.perform")
def perform(operation_id: str) -> bool:
    """Carry out one operation if it is due."""
    return operations.perform(uuid.UUID(operation_id), clock.now())


@shared_task(name="rotation.tasks.tick")
def tick() -> int:
    """One beat; returns how many rotations were looked at."""
    restoring.watch(clock.now())
    looked_at = ticking.tick(clock.now(), ring=ring)
    notifying.tick(clock.now(), ring=ring_channel)
    return looked_at


@shared_task(name="rotation.tasks.checkpoint")
def checkpoint() -> bool:
    """Keep a signed checkpoint of the audit chain outside the database, if one is due."""
    return anchoring.keep(clock.now()) is not None


@shared_task(name="rotation.tasks.prove_audit")
def prove_audit() -> str:
    """Prove the audit trail; returns the verdict. It only reads, so a second one at once does no harm."""
    return proving.prove_nightly(clock.now()).value


@shared_task(name="rotation.tasks.notify")
def notify(channel_id: str) -> int:
    """Send what is due on one channel; returns the number of tries. What is left rings again."""
    channel = uuid.UUID(channel_id)
    for tries in range(IN_ONE_TASK):
        if not step(channel, clock.now()):
            return tries
    ring_channel(channel)
    return IN_ONE_TASK


@shared_task(name="rotation.tasks.drift")
def drift() -> int:
    """Have every provider looked at; returns how many there are."""
    wanted = [provider.slug for provider in drifting.providers()]
    for slug in wanted:
        look_for_drift.delay(slug)
    return len(wanted)


@shared_task(name="rotation.tasks.look_for_drift")
def look_for_drift(slug: str) -> int:
    """Look at one provider; returns how many differences are open."""
    return sum(len(found) for found in drifting.check_all([slug], clock.now()).values())
