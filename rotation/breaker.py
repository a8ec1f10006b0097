"""How often a provider is asked at once, and when it is left alone for a while. One writer, this file.

Two gates stand before every call, and both are rows, so that they hold for all workers of all hosts:

1. The cap: so many calls to one provider are under way at most. Calls that replace a leaked key have a lane
   of the same width to themselves and never stand behind others. A look for drift takes one place.
2. The breaker: after ``FAILURES_TO_OPEN`` calls in a row that nobody answered it opens, and the provider is
   left alone for a pause that doubles each time. Then one call goes out as a trial; its answer closes it.

What is held back keeps its tries. Calls for a leaked key pass an open breaker: a person must hear soon that
it cannot be revoked. A probe passes too and is answered on the spot: the provider is unreachable.
Keys that we issue ourselves know neither gate.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce

from keyvault.models import Provider
from keyvault.prepared import prepared
from rotation.facts import PROVIDER_BUSY, PROVIDER_DOWN, Kind, OperationState
from rotation.models import Breaker, Operation

log = structlog.get_logger("keyturn.breaker")

FAILURES_TO_OPEN = 5
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=5)
TRIAL = timedelta(seconds=60)  # a trial that tells nothing within this time makes room for another
LOOK = timedelta(minutes=10)  # a look for drift that tells nothing within this time does not count any more
SPREAD = 5.0  # seconds over which those that wait come back
_random = random.SystemRandom()
_LEAKED_AT = Coalesce(F("rotation__outgoing__compromised_at"), F("rotation__incoming__compromised_at"))


@dataclass(frozen=True)
class Held:
    """Why an operation is not carried out now. ``code``: provider_busy or provider_down."""

    code: str
    reason: str
    until: datetime


@prepared
def _row(provider_id: uuid.UUID) -> QuerySet[Breaker]:
    return Breaker.objects.select_for_update(of=("self",)).order_by().filter(provider_id=provider_id)


@prepared
def _left_alone_now(provider_id: uuid.UUID, now: datetime) -> QuerySet[Breaker]:
    return Breaker.objects.filter(provider_id=provider_id, open_until__gt=now)


@prepared
def _failing(provider_id: uuid.UUID) -> QuerySet[Breaker, uuid.UUID]:
    return Breaker.objects.filter(provider_id=provider_id, failures__gt=0).values_list("id", flat=True)


@prepared
def _held_back(provider_id: uuid.UUID) -> QuerySet[Operation, uuid.UUID]:
    """The operation that may go next, of those that the cap held back."""
    waiting = Operation.objects.filter(
        state=OperationState.PENDING, outcome=PROVIDER_BUSY, rotation__key__service__provider=provider_id
    ).order_by(_LEAKED_AT.asc(nulls_last=True), "created_at")
    return waiting.values_list("id", flat=True)[:1]


@prepared
def _running(provider_id: uuid.UUID, now: datetime, urgent: bool) -> QuerySet[Operation, uuid.UUID]:
    """Calls under way, of those that replace a leaked key or of all others."""
    running = Operation.objects.filter(
        state=OperationState.RUNNING, lease_until__gt=now, rotation__key__service__provider=provider_id
    )
    lane = running.annotate(leaked_at=_LEAKED_AT).filter(leaked_at__isnull=not urgent)
    return lane.order_by().values_list("id", flat=True)


def admit(operation: Operation, now: datetime) -> Held | None:
    """Whether this operation may be carried out now; None: it may. Runs in the transaction of its claim.

    The operation comes with its rotation, the key's provider and both versions.
    """
    provider = _provider(operation)
    if _ours(provider):
        return None
    row = _lock(provider)
    urgent = _is_urgent(operation)
    if len(_running(provider.id, now, urgent)) >= _room(row, now, urgent=urgent):
        until = now + timedelta(seconds=_random.uniform(1.0, SPREAD))
        return Held(PROVIDER_BUSY, f"as many calls to {provider.slug} as may be are under way", until)
    if row.open_until is None:
        return None
    if now >= row.open_until:
        row.trial, row.open_until = operation.id, now + TRIAL
        row.save()
        return None
    if urgent or operation.kind == Kind.PROBE:
        return None
    until = row.open_until + timedelta(seconds=_random.uniform(0.0, SPREAD))
    return Held(PROVIDER_DOWN, _left_alone(provider, row.open_until), until)


def silenced(operation: Operation, now: datetime) -> str:
    """Why this probe is answered without asking the provider; empty where the provider is asked."""
    if operation.kind != Kind.PROBE or _is_urgent(operation):
        return ""
    row = _left_alone_now.first(_provider(operation).id, now)
    if row is None or row.open_until is None or row.trial == operation.id:
        return ""
    return _left_alone(_provider(operation), row.open_until)


def _room(row: Breaker, now: datetime, *, urgent: bool) -> int:
    """How many calls may be under way. A look for drift, one call after the other, is one of them."""
    room: int = settings.KEYTURN_PROVIDER_CALLS
    looking = row.looking_until is not None and row.looking_until > now
    return max(1, room - 1) if looking and not urgent else room


def begin_look(provider: Provider, now: datetime) -> None:
    """The keys of this provider are looked at from now on; call ``end_look`` afterwards."""
    Breaker.objects.update_or_create(provider=provider, defaults={"looking_until": now + LOOK})


def end_look(provider: Provider) -> None:
    Breaker.objects.filter(provider=provider).update(looking_until=None)


def is_open(provider: Provider, now: datetime) -> bool:
    """Whether the provider is left alone at present."""
    return bool(_left_alone_now(provider.id, now))


def note(provider: Provider, now: datetime, *, reached: bool | None, call: uuid.UUID | None = None) -> None:
    """Count what became of a call. ``call``: the operation's id; ``reached`` None: nobody was asked."""
    if _ours(provider):
        return
    if reached:
        if not _failing(provider.id):
            return
        answered = Breaker.objects.filter(provider=provider, failures__gt=0)
        if answered.update(failures=0, pauses=0, open_until=None, trial=None):
            log.info("the provider answers", provider=provider.slug)
    elif reached is None:
        # A trial that asked nobody lets the next one try.
        Breaker.objects.filter(provider=provider, trial=call).exclude(trial=None).update(
            open_until=now, trial=None
        )
    else:
        _count_failure(provider, call, now)


@transaction.atomic
def _count_failure(provider: Provider, call: uuid.UUID | None, now: datetime) -> None:
    row = _lock(provider)
    was_trial = call is not None and row.trial == call
    if row.open_until is not None and now < row.open_until and not was_trial:
        return  # it began before the breaker opened, and says nothing new
    row.failures += 1
    if row.failures >= FAILURES_TO_OPEN:
        row.pauses += 1
        row.open_until, row.trial = now + pause(row.pauses), None
        log.warning("the provider is left alone", provider=provider.slug, until=row.open_until.isoformat())
    row.save()


def pause(pauses: int) -> timedelta:
    """How long the provider is left alone for the nth time in a row: doubling, jittered in the upper half."""
    doubled: timedelta = FIRST_PAUSE * 2 ** min(pauses - 1, 10)
    return min(LONGEST_PAUSE, doubled) * _random.uniform(0.5, 1.0)


def hand_on(provider: Provider, now: datetime) -> uuid.UUID | None:
    """A call has ended: the operation that may go next, of those that the cap held back."""
    next_id = _held_back.first(provider.id)
    if next_id is None:
        return None
    freed = Operation.objects.filter(pk=next_id, state=OperationState.PENDING, outcome=PROVIDER_BUSY)
    return next_id if freed.update(retry_at=now) else None


def _provider(operation: Operation) -> Provider:
    return operation.rotation.key.service.provider


def _ours(provider: Provider) -> bool:
    return provider.driver == "generated"


def _is_urgent(operation: Operation) -> bool:
    """Whether either key of its rotation leaked: one that was rolled back has to die as well."""
    both = (operation.rotation.outgoing, operation.rotation.incoming)
    return any(version is not None and version.compromised_at is not None for version in both)


def _lock(provider: Provider) -> Breaker:
    row = _row.first(provider.id)
    if row is None:
        row, _ = Breaker.objects.select_for_update(of=("self",)).get_or_create(provider=provider)
    return row


def _left_alone(provider: Provider, until: datetime) -> str:
    return f"{provider.slug} does not answer; it is asked again after {until:%H:%M:%S} UTC"
