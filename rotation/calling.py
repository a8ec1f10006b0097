"""One call to a driver, and what its answer means for the operation. Holds no lock, writes nothing.

Every way a driver can fail becomes a settlement; ``operations.settle`` writes it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models.functions import Trim

from keyvault.crypto.secret import Secret
from keyvault.domain import State
from keyvault.keystore import open_version
from keyvault.models import KeyVersion
from rotation import breaker, specs
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
from rotation.facts import Kind, OperationState
from rotation.models import Operation
from rotation.policy import kept

MOST_TRIES = 8
LONGEST_DELAY = 300.0
LONGEST_WAIT = 900.0  # of what a provider's Retry-After asks for
VERIFY_BUDGET = timedelta(minutes=5)  # a fresh key may take this long to spread at the provider
REACH_BUDGET = timedelta(minutes=15)  # a provider that cannot be reached gets this long
CONFIRM_BUDGET = timedelta(hours=24)
ORPHAN_SEARCHES = 3
_random = random.SystemRandom()


@dataclass(frozen=True)
class Settlement:
    """What became of an operation. ``retry`` set: it stays pending and is tried again after that time.

    ``reached``: whether the provider answered at all; None where it was not asked.
    """

    state: OperationState
    outcome: str = ""
    message: str = ""
    retry: timedelta | None = None
    request_id: str = ""
    issued: Issued | None = None
    used_at: datetime | None = None  # by the provider's account
    reached: bool | None = True


def call(operation: Operation, now: datetime) -> Settlement:
    """Ask the driver; every way it can fail becomes a settlement."""
    silenced = breaker.silenced(operation, now)
    if silenced:
        return Settlement(OperationState.DONE, str(ProbeOutcome.UNREACHABLE), silenced, reached=None)
    provider = operation.rotation.key.service.provider
    driver = load_driver(provider.driver)
    try:
        spec = specs.provider_spec(
            provider, with_admin_secret=operation.kind not in (Kind.PROBE, Kind.VERIFY, Kind.CONFIRM)
        )
        return _HANDLERS[Kind(operation.kind)](operation, driver, spec, now)
    except NeedsPerson as error:
        return Settlement(OperationState.NEEDS_PERSON, error.code, error.message, reached=None)
    except QuotaReached as error:
        return _no_room(operation, error, now)
    except Refused as error:
        return Settlement(OperationState.FAILED, "refused", error.message)
    except OutcomeUnknown as error:
        return _unknown(operation, error)
    except (Throttled, Unavailable) as error:
        return _again(operation, error)


def _no_room(operation: Operation, error: QuotaReached, now: datetime) -> Settlement:
    """In a cutover the old key was revoked just now, and may take a moment to make room."""
    fresh = now - operation.created_at < VERIFY_BUDGET and operation.tries < MOST_TRIES
    if fresh and kept(operation.rotation.policy).cutover:
        delay = backoff(operation.tries)
        return Settlement(OperationState.PENDING, "quota_full", error.message, retry=delay)
    return Settlement(OperationState.FAILED, "quota_full", error.message)


def _answered(error: DriverError) -> bool:
    """Whether the provider answered at all, be it nonsense."""
    return isinstance(error, Throttled) or error.code == "answer_unusable"


def _again(operation: Operation, error: DriverError) -> Settlement:
    reached = _answered(error)
    if operation.tries >= MOST_TRIES:
        message = f"{error.message} ({operation.tries} tries)"
        return Settlement(OperationState.FAILED, "unreachable", message, reached=reached)
    delay = backoff(operation.tries, error.retry_after)
    return Settlement(OperationState.PENDING, error.code, error.message, retry=delay, reached=reached)


def _unknown(operation: Operation, error: OutcomeUnknown) -> Settlement:
    """An issue or a revoke may have happened: only looking at the provider tells. The rest is repeatable."""
    if operation.kind in (Kind.ISSUE, Kind.REVOKE):
        return Settlement(OperationState.UNKNOWN, "lost_answer", error.message, reached=_answered(error))
    return _again(operation, error)


def backoff(tries: int, retry_after: float | None = None) -> timedelta:
    """Full jitter over a doubling second, at most five minutes.

    It comes on top of a provider's Retry-After, or all that were told to wait would come back at once.
    """
    delay = _random.uniform(0.2, min(LONGEST_DELAY, 2.0 ** min(tries, 10)))
    return timedelta(seconds=delay + min(retry_after or 0.0, LONGEST_WAIT))


def _issue(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    environment = operation.rotation.key.environment.slug
    request = IssueRequest(label=operation.label, idempotency_key=operation.label, environment=environment)
    return _created(operation, "issued", driver.issue(spec, request))


def _created(operation: Operation, outcome: str, issued: Issued) -> Settlement:
    """A key that is new. One that goes by the id of a key in use is none, and cleaning up would kill that."""
    if _held_elsewhere(operation, issued.provider_key_id, but=operation.version):
        message = "the provider answered with the id of a key that is in use here"
        return Settlement(OperationState.FAILED, "not_rotated", message)
    return Settlement(OperationState.DONE, outcome, issued=issued)


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
        return _created(operation, "replayed", driver.issue(spec, request))
    if not able.list or not able.revoke:
        return Settlement(OperationState.FAILED, "possible_orphan", "this provider cannot list its keys")
    orphans = [entry for entry in driver.list(spec) if entry.label == lost.label]
    if len(orphans) > 1:
        # We made one at most, and nobody can say which of them that is.
        return Settlement(OperationState.FAILED, "possible_orphan", f"{len(orphans)} keys carry our label")
    for orphan in orphans:
        if _held_elsewhere(operation, orphan.provider_key_id):
            return Settlement(OperationState.FAILED, "possible_orphan", "the label belongs to a key in use")
        driver.revoke(spec, orphan.provider_key_id)
    if not orphans and operation.tries < ORPHAN_SEARCHES:
        # It may take the provider a moment to list what it has just created.
        return Settlement(OperationState.PENDING, "searching", "no orphan found yet", retry=backoff(1))
    return Settlement(OperationState.DONE, "orphan_revoked" if orphans else "nothing_created")


def _probe(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    result = driver.probe(spec, open_version(operation.version))
    return Settlement(
        OperationState.DONE,
        str(result.outcome),
        result.detail,
        request_id=result.request_id or "",
        reached=_reached(result),
    )


def _reached(result: ProbeResult) -> bool:
    return result.outcome is not ProbeOutcome.UNREACHABLE


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
    if now - operation.created_at < VERIFY_BUDGET:
        # However often it was tried: the tries follow each other quickly at first.
        delay = min(backoff(operation.tries), timedelta(minutes=1))
        return Settlement(OperationState.PENDING, "rejected", "not accepted yet", retry=delay)
    return Settlement(OperationState.FAILED, "rejected", "the provider does not accept the new key")


def _no_verdict(operation: Operation, result: ProbeResult, now: datetime) -> Settlement:
    reached = _reached(result)
    if now - operation.created_at >= REACH_BUDGET:
        message = f"no clear answer from the provider: {result.detail}"
        return Settlement(OperationState.FAILED, "no_verdict", message, reached=reached)
    delay = min(backoff(operation.tries, result.retry_after), timedelta(minutes=1))
    return Settlement(
        OperationState.PENDING, str(result.outcome), result.detail, retry=delay, reached=reached
    )


def _held_elsewhere(operation: Operation, provider_key_id: str, but: KeyVersion | None = None) -> bool:
    """Whether a version that must live goes by this id at the provider, whatever its letter case."""
    wanted = provider_key_id.strip()
    if not wanted:
        return False
    living = KeyVersion.objects.filter(
        key__service__provider=operation.rotation.key.service.provider_id,
        state__in=(State.ACTIVE, State.DISABLED),
    )
    if but is not None:
        living = living.exclude(pk=but.pk)
    return living.annotate(bare=Trim("provider_key_id")).filter(bare__iexact=wanted).exists()


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
    """Never the key in use: the provider's id of it must not be that of another version that is to live."""
    version = operation.version
    if _held_elsewhere(operation, version.provider_key_id, but=version):
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
    policy = kept(operation.rotation.policy)
    budget = min(max(policy.cool_off, VERIFY_BUDGET), CONFIRM_BUDGET)
    revoke_unknown = Operation.objects.filter(
        rotation=operation.rotation_id, kind=Kind.REVOKE, side=operation.side, state=OperationState.UNKNOWN
    ).exists()
    alive = result.outcome is ProbeOutcome.ACCEPTED
    if alive and revoke_unknown and operation.tries >= 2:
        return Settlement(OperationState.DONE, "alive", "the revoke was not carried out")
    reached = _reached(result)
    if now - operation.created_at >= budget:
        outcome = "alive" if alive else "no_verdict"
        message = f"not proved dead: {result.detail or result.outcome}"
        return Settlement(OperationState.DONE, outcome, message, reached=reached)
    delay = min(backoff(operation.tries, result.retry_after), timedelta(minutes=1))
    what = "still honoured" if alive else result.detail
    return Settlement(OperationState.PENDING, str(result.outcome), what, retry=delay, reached=reached)


def _inspect(operation: Operation, driver: Driver, spec: ProviderSpec, now: datetime) -> Settlement:
    """When the provider itself last saw the key. It is asked before a probe of ours, which it would see."""
    wanted = _need_id(operation)
    for entry in driver.list(spec):
        if entry.provider_key_id == wanted:
            return Settlement(OperationState.DONE, "inspected", used_at=entry.last_used_at)
    return Settlement(OperationState.FAILED, "not_listed", "the provider does not list this key")


_HANDLERS = {
    Kind.ISSUE: _issue,
    Kind.RECONCILE: _reconcile,
    Kind.PROBE: _probe,
    Kind.VERIFY: _verify,
    Kind.DISABLE: _disable,
    Kind.ENABLE: _enable,
    Kind.REVOKE: _revoke,
    Kind.CONFIRM: _confirm,
    Kind.INSPECT: _inspect,
}
