"""Doing in this process what the scheduler and the workers do, for commands on a machine without them."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from keyvault.services import usage
from rotation import operations
from rotation.services import notifying, ticking

log = structlog.get_logger("keyturn.tick")

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Beat:
    """What one beat did: rotations looked at, operations carried out and failed in us, deliveries folded,
    tries to send a notice."""

    rotations: int
    performed: int = 0
    failed: int = 0
    folded: int = 0
    notified: int = 0


def beat_and_perform(clock: Clock) -> Beat:
    """One tick, then every operation that is due, those that follow from them, and the roll-up.

    An operation that waits for a later time is left for a later beat.
    """
    rung: deque[uuid.UUID] = deque()
    looked_at = ticking.tick(clock(), ring=rung.append)
    performed, failed = perform_all(rung, clock)
    notifying.tick(clock(), ring=lambda _: None)
    notified = notifying.deliver_due(clock)
    return Beat(looked_at, performed, failed, folded=usage.roll_up(), notified=notified)


def perform_all(rung: deque[uuid.UUID], clock: Clock) -> tuple[int, int]:
    """Carry out what was rung for until nothing is left; returns how many were done and how many raised."""
    performed = failed = 0
    while rung:
        operation_id = rung.popleft()
        try:
            performed += operations.perform(operation_id, clock(), ring=rung.append)
        except Exception:
            # Its lease runs out and a later tick decides what it is; the others must not wait for that.
            log.exception("an operation could not be performed", operation=str(operation_id))
            failed += 1
    return performed, failed
