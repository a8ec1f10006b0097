"""One look at many rotations. Nearly all of them only wait: for time, for reports, for a person.

Those go on waiting, in one transaction and with the same few queries for all of them. Whatever else is due is
left to ``engine.advance``, which looks again at one rotation alone, under all its locks.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from django.db import connection, transaction
from django.db.models import QuerySet

from keyvault.prepared import prepared
from rotation import engine
from rotation.checking import check
from rotation.decide import decide
from rotation.facts import Stage, Wait
from rotation.gather import Gathered, gather
from rotation.models import Rotation
from rotation.observe import observe, snapshot
from rotation.policy import kept
from rotation.routine import routine_due

log = structlog.get_logger("keyturn.tick")

# What a check and a wait may change. Nothing of it is a transition, so no event tells of it.
WRITTEN: Final = (
    "check_at",
    "waiting_for",
    "waiting_code",
    "passes",
    "failed_checks",
    "monitored_seconds",
    "clock",
    "clock_note",
    "last_check_at",
    "verdict",
    "verdict_code",
    "verdict_reason",
)


@prepared
def _held(ids: Collection[uuid.UUID]) -> QuerySet[Rotation]:
    skip = connection.features.has_select_for_update_skip_locked
    held = Rotation.objects.select_for_update(of=("self",), skip_locked=skip).filter(id__in=ids)
    return held.select_related("key__service__provider", "key__environment", "incoming", "outgoing")


@transaction.atomic
def glance(ids: Sequence[uuid.UUID], now: datetime) -> list[uuid.UUID]:
    """Look at these rotations. Returns those that need more than to wait.

    One that somebody else holds at this moment is left to whoever that is.
    """
    rows = _held(ids)
    gathered = gather([row for row in rows if row.is_open], now)
    waiting = [row for row in rows if row.is_open and _only_waits(row, gathered, now)]
    _write(waiting)
    done = {row.id for row in waiting}
    return [row.id for row in rows if row.id not in done]


def _only_waits(rotation: Rotation, gathered: Gathered, now: datetime) -> bool:
    """Whether waiting is all; then what a check and the wait change stands in the row, not yet written."""
    try:
        seen = observe(rotation, now, gathered, proof=False)
        verdict = check(rotation, seen, now)
        state = snapshot(rotation)
        # Without the quiet proof nothing may be said of a rotation that has been monitored long enough.
        if state.stage is Stage.MONITOR and state.monitored >= kept(rotation.policy).monitor:
            return False
        action = decide(state, seen, verdict, now)
        if (
            not isinstance(action, Wait)
            or engine.newly_wanted(rotation, action)
            or routine_due(state, seen, now)
        ):
            return False
    except Exception:
        # It is looked at alone next, where its failure cannot hold up the others.
        log.exception("a rotation could not be looked at", rotation=str(rotation.id))
        return False
    engine.wait(rotation, action, now)
    return True


def _write(rotations: Iterable[Rotation]) -> None:
    """Only where the row still is as it was read: a database that cannot lock rows needs that."""
    fields = [field for field in Rotation._meta.concrete_fields if field.name in WRITTEN]
    assignments = ", ".join(f'"{field.column}" = %s' for field in fields)
    statement = f'UPDATE "{Rotation._meta.db_table}" SET {assignments} WHERE id = %s AND revision = %s'  # noqa: S608
    pk = Rotation._meta.pk

    def prepared(rotation: Rotation) -> list[Any]:
        values = [field.get_db_prep_save(getattr(rotation, field.attname), connection) for field in fields]
        return [*values, pk.get_db_prep_save(rotation.pk, connection), rotation.revision]

    rows = [prepared(rotation) for rotation in rotations]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(statement, rows)
