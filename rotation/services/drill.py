"""A drill: one rotation to its end, a second one that is rolled back on purpose, and a look at what is left.

It goes the ordinary ways: the services start and abort, the scheduler and the workers do the rest. Where
nobody beats, the drill does so itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from keyvault.actors import Actor
from keyvault.domain import State
from keyvault.exceptions import KeyturnError, not_found
from keyvault.models import Key
from keyvault.services import beats
from rotation import engine
from rotation.drivers.base import ProbeOutcome
from rotation.facts import Kind, OperationState, Side, Stage
from rotation.models import Operation, Rotation, RotationPolicy
from rotation.plan import plan
from rotation.services import starting, verbs
from rotation.services.performing import Clock, beat_and_perform

IN_FLIGHT = (OperationState.PENDING, OperationState.RUNNING)
# What would make a rotation stop for a person, or prove nothing: no drill then.
IN_THE_WAY = frozenset({"quota", "supply_key", "no_base_url", "no_probe", "approval_start", "window"})


class DrillStopped(Exception):
    """A rotation of the drill asks for a person; it stays as it is."""

    def __init__(self, rotation: Rotation) -> None:
        super().__init__(f"{rotation.attention}: {rotation.attention_reason}")
        self.rotation = rotation


@dataclass(frozen=True)
class Finding:
    """One thing that a drill has to prove, and whether it did."""

    name: str
    good: bool


@dataclass(frozen=True)
class Report:
    """``rotations`` are the finished ones in order; the second is missing where the first one failed."""

    service: str
    environment: str
    policy: str
    began_at: datetime
    ended_at: datetime
    rotations: tuple[uuid.UUID, ...]
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        return all(finding.good for finding in self.findings)


@dataclass
class Pace:
    """How the drill lets time pass. ``tell`` is called with each rotation whenever it has been looked at."""

    clock: Clock
    wait: Callable[[float], None]
    tell: Callable[[Rotation], None]
    _beats: bool = False

    def pass_on(self) -> None:
        """One turn: beat where nobody else does, and wait a moment."""
        if not self._beats:
            last = beats.last(beats.BEAT)
            patience = timedelta(seconds=settings.KEYTURN_HEARTBEAT_MAX_AGE)
            self._beats = last is None or not timedelta(0) <= self.clock() - last <= patience
        if self._beats:
            beat_and_perform(self.clock)
        self.wait(min(max(settings.KEYTURN_TICK / 2, 0.2), 5.0))


def choose_key(actor: Actor, service: str, environment: str | None) -> Key:
    """The key to rehearse with: of this environment, or of the lowest one that is not protected.

    Raises ``not_found``, and ``permission_denied`` for a protected environment.
    """
    keys = (
        Key.objects.for_actor(actor)
        .filter(service__slug=service)
        .select_related("service__provider", "service__team", "environment", "current")
        .order_by("environment__position")
    )
    if environment is not None:
        keys = keys.filter(environment__slug=environment)
    else:
        keys = keys.filter(environment__protected=False)
    key = keys.first()
    if key is None:
        raise not_found()
    _refuse_protected(key)
    return key


def rehearse(actor: Actor, key: Key, policy: RotationPolicy, pace: Pace) -> Report:
    """Rotate, rotate again and roll back in shift, then look at the provider.

    Raises ``DrillStopped`` when a person has to do something, and what starting a rotation raises.
    """
    _refuse_protected(key)
    began_at = pace.clock()
    _refuse_what_would_stop(key, policy, began_at)
    first = _start(actor, key, policy, "drill: replace the key", pace)
    first = _follow(first.id, pace, lambda row: not row.is_open)
    rotations, findings = [first.id], _replaced(first)
    if first.stage == Stage.SUCCEEDED:
        second = _start(actor, key, policy, "drill: roll back on purpose", pace)
        second = _follow(second.id, pace, lambda row: row.stage in (Stage.SHIFT, Stage.MONITOR))
        if second.is_open:
            verbs.abort(actor, second.id, reason="drill: forced rollback", now=pace.clock())
        second = _follow(second.id, pace, _settled)
        rotations.append(second.id)
        findings += _rolled_back(second, _probed(second, pace))
    return Report(
        service=key.service.slug,
        environment=key.environment.slug,
        policy=policy.slug,
        began_at=began_at,
        ended_at=pace.clock(),
        rotations=tuple(rotations),
        findings=tuple(findings),
    )


def _refuse_protected(key: Key) -> None:
    if key.environment.protected:
        raise KeyturnError(
            "permission_denied",
            f"{key.environment.slug} is protected, and a drill rolls back on purpose. Choose a lower one.",
        )


def _refuse_what_would_stop(key: Key, policy: RotationPolicy, now: datetime) -> None:
    unmet = plan(key, policy.value, policy.slug, now=now).unmet
    reasons = [one.message for one in unmet if one.blocking or one.code in IN_THE_WAY]
    if key.current_id is None:
        reasons.append("This key has no version yet.")
    if policy.value.approvals.get("revoke"):
        reasons.append("The revoke would wait for an approval.")
    if reasons:
        raise KeyturnError("invalid_transition", f"No drill is possible now. {' '.join(reasons)}")


def _start(actor: Actor, key: Key, policy: RotationPolicy, reason: str, pace: Pace) -> Rotation:
    return starting.start(actor, key, policy=policy, reason=reason, now=pace.clock())


def _follow(rotation_id: uuid.UUID, pace: Pace, until: Callable[[Rotation], bool]) -> Rotation:
    """Let time pass until something is so, or the rotation is over without it."""
    rows = Rotation.objects.select_related("key", "incoming", "outgoing")
    while True:
        rotation = rows.get(pk=rotation_id)
        pace.tell(rotation)
        if rotation.attention:
            raise DrillStopped(rotation)
        if until(rotation) or (not rotation.is_open and rotation.check_at is None):
            return rotation
        pace.pass_on()


def _in_flight(rotation: Rotation) -> bool:
    return Operation.objects.filter(rotation=rotation, state__in=IN_FLIGHT).exists()


def _settled(rotation: Rotation) -> bool:
    """Nothing is left to do: the incoming version of a rollback is revoked and proved dead."""
    return not rotation.is_open and rotation.check_at is None and not _in_flight(rotation)


def _probed(rotation: Rotation, pace: Pace) -> dict[Side, str]:
    """What the provider says of both keys now that all is over, asked like everything else is."""
    while _in_flight(rotation):
        pace.pass_on()  # a probe of before may be on its way
    with transaction.atomic():
        locked, now = engine.lock(rotation.id), pace.clock()
        for side in Side:
            engine.ask(locked, Kind.PROBE, side, now)
    while _in_flight(rotation):
        pace.pass_on()
    rows = Operation.objects.filter(rotation=rotation, kind=Kind.PROBE).order_by("created_at", "attempt")
    return {Side(row.side): row.outcome for row in rows}


def _replaced(rotation: Rotation) -> list[Finding]:
    dead = Operation.objects.filter(
        rotation=rotation, kind=Kind.CONFIRM, side=Side.OUTGOING, outcome="dead"
    ).exists()
    current = Key.objects.get(pk=rotation.key_id).current_id
    done = rotation.stage == Stage.SUCCEEDED and current == rotation.incoming_id
    return [
        Finding("the first rotation replaced the key", done),
        Finding("the provider refuses the key that was replaced", dead),
    ]


def _rolled_back(rotation: Rotation, said: dict[Side, str]) -> list[Finding]:
    key, incoming = Key.objects.get(pk=rotation.key_id), rotation.incoming
    back = rotation.stage == Stage.ROLLED_BACK and key.current_id == rotation.outgoing_id
    left = (key.pending_id, key.previous_id, key.weight)
    revoked = incoming is not None and incoming.state == State.REVOKED
    return [
        Finding("the second rotation was rolled back, and the key from before answers everybody", back),
        Finding("no label and no weight is left of it", left == (None, None, None)),
        Finding("the provider accepts the key in use", said.get(Side.OUTGOING) == ProbeOutcome.ACCEPTED),
        Finding("the key that was given up is revoked", revoked),
        Finding("the provider refuses it", said.get(Side.INCOMING) == ProbeOutcome.REJECTED),
    ]
