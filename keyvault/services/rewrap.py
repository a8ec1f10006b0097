"""Moving data keys from one KEK to another. Reads go on; kill -9 anywhere leaves every row readable."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.errors import IntegrityError, KeyServiceUnavailable
from keyvault.crypto.keyring import KekProvider
from keyvault.keystore import keys
from keyvault.services.keks import ensure_canary
from keyvault.services.sealed_rows import Table, tables


@dataclass(frozen=True)
class Broken:
    """A row that does not open; ``why``: ``integrity`` (it was changed) or ``unavailable`` (no KEK)."""

    table: str
    id: str
    kid: str
    why: str


@dataclass(frozen=True)
class Rewrapped:
    """What one run did: ``rows`` moved to ``kid``; ``broken`` ones were left as they are."""

    environment: str
    kid: str
    rows: int
    broken: tuple[Broken, ...] = ()


@dataclass(frozen=True)
class Verified:
    """How many ``rows`` of an environment were opened, and which of them did not open."""

    environment: str
    rows: int
    broken: tuple[Broken, ...] = ()


def rewrap_environment(actor: Actor, environment: str, *, now: datetime, batch: int = 200) -> Rewrapped:
    """Wrap every data key of this environment under its primary KEK.

    One short transaction per row: the rows themselves say what is left, so it can be run again after
    any interruption. A row that does not open is reported and does not stop the others. Every ``batch``
    rows an audit event says how many were moved. Raises ``KeyServiceUnavailable`` for an environment
    that this process does not hold.
    """
    ensure_canary(environment, keys().keks.primary(environment), now=now)
    broken: dict[uuid.UUID, Broken] = {}
    moved = unrecorded = 0
    while True:
        changed = 0
        for table in tables(environment):
            for row_id in _left(table, keys().keks.primary(environment), broken):
                done = _move(table, row_id, broken)
                changed, unrecorded = changed + done, unrecorded + done
                if unrecorded >= batch:
                    _record(actor, environment, unrecorded, now)
                    unrecorded = 0
        moved += changed
        if not changed:  # nothing more came in under an older KEK meanwhile
            break
    _record(actor, environment, unrecorded, now)
    return Rewrapped(environment, keys().keks.primary(environment), moved, tuple(broken.values()))


def verify_environment(environment: str) -> Verified:
    """Open every sealed row of this environment, and check every signature that there is."""
    rows = 0
    broken = []
    for table in tables(environment):
        for row in table.by_primary_key():
            rows += 1
            if _why(table.open, row) is None:
                continue
            # It may have been moved, and its KEK retired, since it was read.
            again = table.rows.filter(pk=row.pk).first()
            if again is not None and (why := _why(table.open, again)) is not None:
                broken.append(Broken(table.name, str(row.pk), table.kid_of(again), why))
    return Verified(environment, rows, tuple(broken))


def _left(table: Table, primary: str, broken: dict[uuid.UUID, Broken]) -> list[uuid.UUID]:
    rows = table.rows.exclude(**{table.kid_column: primary}).order_by("pk")
    return [row_id for row_id in rows.values_list("pk", flat=True) if row_id not in broken]


def _record(actor: Actor, environment: str, rows: int, now: datetime) -> None:
    if rows:
        kid = keys().keks.primary(environment)
        with transaction.atomic():
            audit.record("kek:rewrapped", actor=actor, now=now, environment=environment, kid=kid, rows=rows)


def _move(table: Table, row_id: uuid.UUID, broken: dict[uuid.UUID, Broken]) -> int:
    """Move one row; returns 1 if it was written. A row that does not open is noted as broken."""
    done = 0

    def move(row_id: uuid.UUID, keks: KekProvider) -> None:
        nonlocal done
        done = table.move(row_id, keks)

    why = _why(move, row_id)
    if why is not None:
        row = table.rows.filter(pk=row_id).first()
        broken[row_id] = Broken(table.name, str(row_id), "" if row is None else table.kid_of(row), why)
    return done


def _why(work: Callable[[Any, KekProvider], None], subject: object) -> str | None:
    """Do it with the KEKs of this moment; returns why that was not possible."""
    try:
        # Read anew each time: another process may promote a KEK while this one runs.
        work(subject, keys().keks)
    except IntegrityError:
        return "integrity"
    except KeyServiceUnavailable:
        return "unavailable"
    return None
