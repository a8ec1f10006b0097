"""perform(): the only caller of drivers. It holds no lock and no transaction while it calls.

1. Claim the operation (compare-and-swap, with a fence). 2. Call the driver. 3. Settle: write the outcome
and its effect in one transaction, if the fence still is ours. 4. Let the engine go on.
A worker that dies in between leaves a lease that runs out; ``sweep`` then decides what the operation is.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F

from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.keystore import open_version
from keyvault.models import KeyVersion
from keyvault.services import keys as key_services
from rotation import engine, specs
from rotation.drivers import load_driver
from rotation.drivers.base import (
    Driver,
    DriverError,
    Issued,
    IssueRequest,
    NeedsPerson,
    OutcomeUnknown,
    ProbeOutcome,
    ProbeResult,
    ProviderSpec,
    QuotaReached,
    Refused,
    Throttled,
    Unavailable,
    garble,
)
from rotation.facts import Kind, OperationState, Side
from rotation.models import Operation, Rotation
from rotation.policy import from_json

log = structlog.get_logger("keyturn.operations")

LEASE = timedelta(seconds=60)
MOST_TRIES = 8
LONGEST_DELAY = 300.0
VERIFY_BUDGET = timedelta(minutes=5)  # a fresh key may take this long to spread at the provider
REACH_BUDGET = timedelta(minutes=15)  # a provider that cannot be reached gets this long
CONFIRM_BUDGET = timedelta(hours=24)
ORPHAN_SEARCHES = 3
_random = random.SystemRandom()


@dataclass(frozen=True)
class Settlement:
    """What became of an operation. ``retry`` set: it stays pending and is tried again after that time."""

    state: OperationState
    outcome: str = ""
    message: str = ""
    retry: timedelta | None = None
    request_id: str = ""
    issued: Issued | None = None


def perform(operation_id: uuid.UUID, now: datetime, *, ring: engine.Ring | None = None) -> bool:
    """Carry out one operation, if it is due and nobody else has it. Returns whether we settled it."""
    operation = claim(operation_id, now)
    if operation is None:
        return False
    settlement = call(operation, now)
    settled = settle(operation.id, operation.fence, settlement, now, ring=ring)
    if settled and settlement.retry is None:
        engine.advance(operation.rotation_id, now, ring=ring)
    return settled


def claim(operation_id: uuid.UUID, now: datetime) -> Operation | None:
    """Take a due operation for the length of a lease; None where somebody else has it or had it."""
    claimed = Operation.objects.filter(
        pk=operation_id, state=OperationState.PENDING, retry_at__lte=now
    ).update(
        state=OperationState.RUNNING,
        fence=F("fence") + 1,
        tries=F("tries") + 1,
        started_at=now,
        lease_until=now + LEASE,
    )
    if not claimed:
        return None
    return Operation.objects.select_related(
        "rotation__key__service__provider",
        "rotation__key__environment",
        "rotation__incoming",
        "rotation__outgoing",
        "version__key__service",
        "version__key__environment",
    ).get(pk=operation_id)


def sweep(now: datetime) -> list[uuid.UUID]:
    """Free operations whose worker died; returns the rotations that need a look.

    An issue that died is unknown, for the provider may have created the key. Everything else may be
    asked twice and simply becomes due again.
    """
    dead = Operation.objects.filter(state=OperationState.RUNNING, lease_until__lt=now)
    rotations = list(dead.values_list("rotation_id", flat=True).distinct())
    # The fence grows, so that the worker, should it only have been slow, settles nothing any more.
    dead.filter(kind=Kind.ISSUE).update(
        state=OperationState.UNKNOWN,
        outcome="lost_answer",
        message="the worker stopped while the provider was asked for a key",
        fence=F("fence") + 1,
        finished_at=now,
        lease_until=None,
    )
    Operation.objects.filter(state=OperationState.RUNNING, lease_until__lt=now).exclude(
        kind=Kind.ISSUE
    ).update(state=OperationState.PENDING, fence=F("fence") + 1, retry_at=now, lease_until=None)
    return rotations


# Calling -------------------------------------------------------------------------------------------


def call(operation: Operation, now: datetime) -> Settlement:
    """Ask the driver; every way it can fail becomes a settlement."""
    provider = operation.rotation.key.service.provider
    driver = load_driver(provider.driver)
    try:
        spec = specs.provider_spec(
            provider, with_admin_secret=operation.kind not in (Kind.PROBE, Kind.VERIFY, Kind.CONFIRM)
        )
        return _HANDLERS[Kind(operation.kind)](operation, driver, spec, now)
    except NeedsPerson as error:
        return Settlement(OperationState.NEEDS_PERSON, error.code, error.message)
    except QuotaReached as error:
        return Settlement(OperationState.FAILED, "quota_full", error.message)
    except Refused as error:
        return Settlement(OperationState.FAILED, "refused", error.message)
    except OutcomeUnknown as error:
        return _unknown(operation, error)
    except (Throttled, Unavailable) as error:
        return _again(operation, error)


def _again(operation: Operation, error: DriverError) -> Settlement:
    if operation.tries >= MOST_TRIES:
        return Settlement(OperationState.FAILED, "unreachable", f"{error.message} ({operation.tries} tries)")
    return Settlement(
        OperationState.PENDING, error.code, error.message, retry=backoff(operation.tries, error.retry_after)
    )


def _unknown(operation: Operation, error: OutcomeUnknown) -> Settlement:
    """An issue or a revoke may have happened: only looking at the provider tells. The rest is repeatable."""
    if operation.kind in (Kind.ISSUE, Kind.REVOKE):
        return Settlement(OperationState.UNKNOWN, "lost_answer", error.message)
    return _again(operation, error)


def backoff(tries: int, retry_after: float | None = None) -> timedelta:
    """Full jitter over a doubling second, at most five minutes; a provider's Retry-After counts as least."""
    delay = _random.uniform(0.2, min(LONGEST_DELAY, 2.0 ** min(tries, 10)))
    return timedelta(seconds=max(delay, min(retry_after or 0.0, 900.0)))


def _issue(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    environment = operation.rotation.key.environment.slug
    request = IssueRequest(label=operation.label, idempotency_key=operation.label, environment=environment)
    issued = driver.issue(spec, request)
    return Settlement(OperationState.DONE, "issued", issued=issued)


def _reconcile(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    """Find out what became of an issue whose answer was lost.

    1. A driver that replays gives the same secret for the same idempotency key: take it.
    2. One that lists: what carries our label cannot be read any more, so exactly that is revoked.
    3. Anything else: a person must look.
    """
    lost = Operation.objects.filter(
        rotation=operation.rotation_id, kind=Kind.ISSUE, state=OperationState.UNKNOWN, superseded=False
    ).last()
    if lost is None:
        return Settlement(OperationState.DONE, "nothing_lost")
    able = driver.capabilities(spec)
    if able.replay:
        request = IssueRequest(lost.label, lost.label, operation.rotation.key.environment.slug)
        return Settlement(OperationState.DONE, "replayed", issued=driver.issue(spec, request))
    if not able.list or not able.revoke:
        return Settlement(OperationState.FAILED, "possible_orphan", "this provider cannot list its keys")
    orphans = [entry for entry in driver.list(spec) if entry.label == lost.label]
    for orphan in orphans:
        if KeyVersion.objects.filter(
            key=operation.rotation.key_id, provider_key_id=orphan.provider_key_id
        ).exists():
            return Settlement(OperationState.FAILED, "possible_orphan", "the label belongs to a key in use")
        driver.revoke(spec, orphan.provider_key_id)
    if not orphans and operation.tries < ORPHAN_SEARCHES:
        # It may take the provider a moment to list what it has just created.
        return Settlement(OperationState.PENDING, "searching", "no orphan found yet", retry=backoff(1))
    return Settlement(OperationState.DONE, "orphan_revoked" if orphans else "nothing_created")


def _probe(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    result = driver.probe(spec, open_version(operation.version))
    return Settlement(
        OperationState.DONE, str(result.outcome), result.detail, request_id=result.request_id or ""
    )


def _verify(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    """The incoming key passes, a garbled one is refused, the outgoing one still passes."""
    incoming: Secret = open_version(operation.version)
    result = driver.probe(spec, incoming)
    if result.outcome is not ProbeOutcome.ACCEPTED:
        return _not_accepted(operation, result, now)
    control = driver.probe(spec, garble(incoming))
    if control.outcome is ProbeOutcome.ACCEPTED:
        return Settlement(
            OperationState.FAILED,
            "verifier_broken",
            "the probe accepts a wrong key too, so it proves nothing: probe a path that needs the key",
        )
    if control.outcome is not ProbeOutcome.REJECTED:
        return _no_verdict(operation, control, now)
    outgoing = operation.rotation.outgoing
    if outgoing is not None and outgoing.state == State.ACTIVE:
        outgoing.key = operation.rotation.key
        old = driver.probe(spec, open_version(outgoing))
        if old.outcome is ProbeOutcome.REJECTED:
            return Settlement(OperationState.DONE, "outgoing_dead", "the outgoing key is refused already")
        if old.outcome is not ProbeOutcome.ACCEPTED:
            return _no_verdict(operation, old, now)
    return Settlement(OperationState.DONE, "verified", request_id=result.request_id or "")


def _not_accepted(operation: Operation, result: ProbeResult, now: datetime) -> Settlement:
    if result.outcome is ProbeOutcome.FORBIDDEN:
        return Settlement(
            OperationState.FAILED,
            "blocked",
            "the provider knows the key but the plan or account does not allow it",
        )
    if result.outcome is not ProbeOutcome.REJECTED:
        return _no_verdict(operation, result, now)
    if now - operation.created_at < VERIFY_BUDGET and operation.tries < MOST_TRIES:
        return Settlement(
            OperationState.PENDING, "rejected", "not accepted yet", retry=backoff(operation.tries)
        )
    return Settlement(OperationState.FAILED, "rejected", "the provider does not accept the new key")


def _no_verdict(operation: Operation, result: ProbeResult, now: datetime) -> Settlement:
    if now - operation.created_at >= REACH_BUDGET:
        return Settlement(
            OperationState.FAILED, "no_verdict", f"no clear answer from the provider: {result.detail}"
        )
    delay = min(backoff(operation.tries, result.retry_after), timedelta(minutes=1))
    return Settlement(OperationState.PENDING, str(result.outcome), result.detail, retry=delay)


def _need_id(operation: Operation) -> str:
    """What the provider calls the key. One that was pasted without its id can only be handled by a person."""
    if not operation.version.provider_key_id and operation.rotation.key.service.provider.driver == "http":
        raise NeedsPerson("no_provider_id", "This key was imported without the provider's id for it.")
    return operation.version.provider_key_id


def _disable(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    driver.disable(spec, _need_id(operation))
    return Settlement(OperationState.DONE, "disabled")


def _enable(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    driver.enable(spec, _need_id(operation))
    return Settlement(OperationState.DONE, "enabled")


def _revoke(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    """Never the key in use: same secret or same provider id as another version that must live."""
    version = operation.version
    twins = KeyVersion.objects.filter(key=version.key_id, state=State.ACTIVE).exclude(pk=version.pk)
    if version.provider_key_id and twins.filter(provider_key_id=version.provider_key_id).exists():
        return Settlement(
            OperationState.FAILED, "in_use", "the provider's id of this key is that of a key in use"
        )
    driver.revoke(spec, _need_id(operation))
    return Settlement(OperationState.DONE, "revoked")


def _confirm(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    """The provider must refuse the key now. Some do so late: it is asked again within a budget."""
    result = driver.probe(spec, open_version(operation.version))
    if result.outcome is ProbeOutcome.REJECTED:
        return Settlement(OperationState.DONE, "dead", result.detail, request_id=result.request_id or "")
    policy = from_json(operation.rotation.policy)
    budget = min(max(policy.cool_off, VERIFY_BUDGET), CONFIRM_BUDGET)
    revoke_unknown = Operation.objects.filter(
        rotation=operation.rotation_id, kind=Kind.REVOKE, side=operation.side, state=OperationState.UNKNOWN
    ).exists()
    alive = result.outcome is ProbeOutcome.ACCEPTED
    if alive and revoke_unknown and operation.tries >= 2:
        return Settlement(OperationState.DONE, "alive", "the revoke was not carried out")
    if now - operation.created_at >= budget:
        outcome = "alive" if alive else "no_verdict"
        return Settlement(OperationState.DONE, outcome, f"not proved dead: {result.detail or result.outcome}")
    delay = min(backoff(operation.tries, result.retry_after), timedelta(minutes=1))
    return Settlement(OperationState.PENDING, str(result.outcome), "still honoured", retry=delay)


_HANDLERS = {
    Kind.ISSUE: _issue,
    Kind.RECONCILE: _reconcile,
    Kind.PROBE: _probe,
    Kind.VERIFY: _verify,
    Kind.DISABLE: _disable,
    Kind.ENABLE: _enable,
    Kind.REVOKE: _revoke,
    Kind.CONFIRM: _confirm,
}


# Settling ------------------------------------------------------------------------------------------


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
    rotation = engine.lock(Operation.objects.values_list("rotation_id", flat=True).get(pk=operation_id))
    operation = Operation.objects.select_for_update(of=("self",)).get(pk=operation_id)
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
    operation.save()
    if settlement.retry is None and operation.kind != Kind.PROBE:
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
        rotation.save(update_fields=["revision"])
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
