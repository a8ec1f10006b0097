"""perform(): claim an operation, call the driver, settle. It holds no lock and no transaction while it calls.

1. Claim the operation (under its lock, with a fence), if the provider may be asked now. 2. Call the driver.
3. Settle: write the outcome and its effect in one transaction, if the fence still is ours. 4. Let the engine
go on.
A worker that dies in between leaves a lease that runs out; ``sweep`` then decides what the operation is.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Exists, F, QuerySet

from keyvault.actors import SYSTEM
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.models import KeyVersion, Quarantine
from keyvault.prepared import prepared
from keyvault.services import keys as key_services
from keyvault.upsert import update
from rotation import breaker, engine
from rotation.calling import Settlement, call
from rotation.facts import RESTORED, ROUTINE, Kind, OperationState, Side
from rotation.models import Operation, Rotation
from rotation.policy import kept

__all__ = ["LEASE", "Settlement", "call", "claim", "perform", "settle", "sweep"]

log = structlog.get_logger("keyturn.operations")

CLOCKS_DIFFER = timedelta(minutes=1)  # between us and a provider
LEASE = timedelta(seconds=60)


def perform(operation_id: uuid.UUID, now: datetime, *, ring: engine.Ring | None = None) -> bool:
    """Carry out one operation, if it is due and nobody else has it. Returns whether we settled it."""
    operation = claim(operation_id, now)
    if operation is None:
        return False
    settlement = call(operation, now)
    settled = settle(operation.id, operation.fence, settlement, now, ring=ring)
    provider = operation.rotation.key.service.provider
    breaker.note(provider, now, reached=settlement.reached, call=operation.id)
    next_id = breaker.hand_on(provider, now)
    if next_id is not None:
        engine.bell(ring)(next_id)
    if settled and settlement.retry is None:
        engine.advance(operation.rotation_id, now, ring=ring)
    return settled


@prepared
def _due(operation_id: uuid.UUID, now: datetime) -> QuerySet[Operation]:
    due = Operation.objects.filter(pk=operation_id, state=OperationState.PENDING, retry_at__lte=now)
    due = due.exclude(rotation__attention=RESTORED)
    due = due.exclude(Exists(Quarantine.objects.filter(key__isnull=True))).select_for_update(of=("self",))
    return due.order_by().select_related(
        "rotation__key__service__provider",
        "rotation__key__environment",
        "rotation__incoming",
        "rotation__outgoing",
        "version__key__service",
        "version__key__environment",
    )


@prepared
def _of_operation(operation_id: uuid.UUID) -> QuerySet[Operation, uuid.UUID]:
    return Operation.objects.filter(pk=operation_id).order_by().values_list("rotation_id", flat=True)


@prepared
def _locked(operation_id: uuid.UUID) -> QuerySet[Operation]:
    return Operation.objects.select_for_update(of=("self",)).order_by().filter(pk=operation_id)


@prepared
def _dead(now: datetime) -> QuerySet[Operation, uuid.UUID]:
    dead = Operation.objects.filter(state=OperationState.RUNNING, lease_until__lt=now)
    # Not DISTINCT: SQLite would read every operation in the order of their rotations for it.
    return dead.order_by().values_list("rotation_id", flat=True)


@transaction.atomic
def claim(operation_id: uuid.UUID, now: datetime) -> Operation | None:
    """Take a due operation for the length of a lease; None where somebody else has it or had it.

    None also where the provider may not be asked now: then the operation keeps its tries and is due later.
    """
    operation = _due.first(operation_id, now)
    if operation is None:
        return None
    held = breaker.admit(operation, now)
    if held is not None:
        operation.outcome, operation.message, operation.retry_at = held.code, held.reason[:500], held.until
        update(operation, "outcome", "message", "retry_at")
        return None
    operation.state, operation.outcome, operation.message = OperationState.RUNNING, "", ""
    operation.fence += 1
    operation.tries += 1
    operation.started_at, operation.lease_until = now, now + LEASE
    update(operation, "state", "outcome", "message", "fence", "tries", "started_at", "lease_until")
    return operation


def sweep(now: datetime) -> list[uuid.UUID]:
    """Free operations whose worker died; returns the rotations that need a look.

    An issue that died is unknown, for the provider may have created the key. Everything else may be
    asked twice and simply becomes due again.
    """
    rotations = list(dict.fromkeys(_dead(now)))
    if not rotations:
        return []
    dead = Operation.objects.filter(state=OperationState.RUNNING, lease_until__lt=now)
    # The fence grows, so that the worker, should it only have been slow, settles nothing any more.
    dead.filter(kind=Kind.ISSUE).update(
        state=OperationState.UNKNOWN,
        outcome="lost_answer",
        message="the worker stopped while the provider was asked for a key",
        fence=F("fence") + 1,
        finished_at=now,
        lease_until=None,
    )
    dead.exclude(kind=Kind.ISSUE).update(
        state=OperationState.PENDING, fence=F("fence") + 1, retry_at=now, lease_until=None
    )
    return rotations


@transaction.atomic
def settle(
    operation_id: uuid.UUID,
    fence: int,
    settlement: Settlement,
    now: datetime,
    *,
    ring: engine.Ring | None = None,
) -> bool:
    """Write the outcome and its effect. A worker whose lease was taken away writes nothing: returns False."""
    (rotation_id,) = _of_operation(operation_id)
    rotation = engine.lock(rotation_id)
    (operation,) = _locked(operation_id)
    if operation.state != OperationState.RUNNING or operation.fence != fence:
        log.warning("stale settlement", operation=str(operation_id), fence=fence)
        return False
    operation.state = settlement.state
    operation.outcome, operation.message = settlement.outcome, settlement.message[:500]
    operation.provider_request_id = settlement.request_id[:128]
    operation.lease_until = None
    if settlement.retry is not None:
        operation.retry_at = now + settlement.retry
    else:
        operation.retry_at, operation.finished_at = None, now
    if settlement.state is OperationState.DONE:
        _apply(rotation, operation, settlement, now)
    if settlement.state is OperationState.UNKNOWN and operation.kind == Kind.REVOKE:
        _stop_serving(rotation, operation.version_id, now)
    update(operation)
    if settlement.retry is None and operation.kind not in ROUTINE:
        engine.event(
            rotation,
            "operation",
            reason=f"{operation.kind} {operation.side}: {operation.outcome}"
            + (f" ({operation.message})" if operation.message else ""),
            now=now,
            operation=str(operation.kind),
            outcome=operation.outcome or str(operation.state),
            attempt=operation.attempt,
        )
        update(rotation, "revision")
    return True


def _apply(rotation: Rotation, operation: Operation, settlement: Settlement, now: datetime) -> None:
    """The effect of a done operation on the version it was about."""
    key = rotation.key
    version = rotation.incoming if operation.side == Side.INCOMING else rotation.outgoing
    if version is None:
        raise RuntimeError("an operation without its version")
    match Kind(operation.kind):
        case Kind.ISSUE:
            _take_issued(rotation, operation, settlement, version, now)
        case Kind.RECONCILE:
            lost = Operation.objects.filter(rotation=rotation, kind=Kind.ISSUE, state=OperationState.UNKNOWN)
            lost.update(superseded=True)
            if settlement.issued is not None:
                _take_issued(rotation, operation, settlement, version, now)
            # A later lost answer needs a look of its own.
            operation.superseded = True
        case Kind.DISABLE if version.state == State.ACTIVE:
            key_services.mark_disabled(SYSTEM, key, version, now=now)
        case Kind.ENABLE if version.state == State.DISABLED:
            key_services.mark_enabled(SYSTEM, key, version, now=now)
        case Kind.REVOKE if version.state in (State.ACTIVE, State.DISABLED):
            key_services.mark_revoked(SYSTEM, key, version, now=now)
        case Kind.CONFIRM if settlement.outcome == "dead" and version.state in (State.ACTIVE, State.DISABLED):
            # The answer to the revoke was lost; the probe proves that it was carried out.
            key_services.mark_revoked(SYSTEM, key, version, now=now)
        case Kind.CONFIRM if settlement.outcome == "alive":
            _revoke_again(rotation, operation)
        case Kind.INSPECT:
            _note_inspection(rotation, settlement, now)


def _stop_serving(rotation: Rotation, version_id: uuid.UUID, now: datetime) -> None:
    """Nobody knows whether this key still works. In a cutover it is the one that everybody is given."""
    outgoing = rotation.outgoing
    if outgoing is not None and outgoing.id == version_id == rotation.key.current_id:
        key_services.withhold(outgoing, now=now)


def _note_inspection(rotation: Rotation, settlement: Settlement, now: datetime) -> None:
    """What the provider saw is a use by somebody else, unless it can be a call of ours."""
    rotation.inspected_at = now
    ours = Operation.objects.filter(rotation=rotation, side=Side.OUTGOING, started_at__isnull=False)
    calls = [*ours.filter(kind=Kind.PROBE).order_by("-created_at")[:2]]
    calls += Operation.objects.filter(rotation=rotation, kind=Kind.VERIFY, started_at__isnull=False)
    used, slack = settlement.used_at, min(CLOCKS_DIFFER, kept(rotation.policy).probe_every / 5)
    if used is not None and not any(_within(used, call, slack) for call in calls):
        rotation.provider_used_at = max(used, rotation.provider_used_at or used)
    rotation.save(update_fields=["inspected_at", "provider_used_at"])


def _within(moment: datetime, call: Operation, slack: timedelta) -> bool:
    """Whether this may be when the provider saw our call, by a clock that differs somewhat from ours."""
    start, end = call.started_at or moment, call.finished_at or call.started_at or moment
    return start - slack <= moment <= end + slack


def _take_issued(
    rotation: Rotation, operation: Operation, settlement: Settlement, version: KeyVersion, now: datetime
) -> None:
    issued = settlement.issued
    if issued is None or version.state != State.REQUESTED:
        return
    try:
        with transaction.atomic():
            key_services.fill_version(
                SYSTEM,
                rotation.key,
                version,
                issued.secret,
                provider_key_id=issued.provider_key_id,
                imported=False,
                now=now,
            )
    except KeyturnError as error:
        # The provider handed out a key that we hold already. Cleaning up would kill the key in use.
        operation.state, operation.outcome = OperationState.FAILED, "not_rotated"
        operation.message = "; ".join(error.fields.get("secret", [error.message]))[:500]
        version.refresh_from_db()


def _revoke_again(rotation: Rotation, operation: Operation) -> None:
    """The key lives although its revoke may have been carried out: both steps are to be repeated."""
    lost = Operation.objects.filter(
        rotation=rotation, kind=Kind.REVOKE, side=operation.side, state=OperationState.UNKNOWN
    )
    if lost.update(superseded=True):
        operation.superseded = True
