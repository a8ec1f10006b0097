"""advance(): lock, observe, decide, execute, commit. The only writer of a rotation.

No network call happens here. Driver calls are recorded as operations; ``operations.perform`` makes them
after this transaction has committed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, QuerySet

from keyvault import audit
from keyvault.actors import SYSTEM, Actor
from keyvault.domain import State
from keyvault.prepared import prepared
from keyvault.services import keys as key_services
from keyvault.upsert import insert, update
from rotation.checking import check, take_baseline
from rotation.dates import due_of
from rotation.decide import clean_up, decide
from rotation.facts import (
    RESTORED,
    ROUTINE,
    TERMINAL,
    Action,
    Attention,
    Call,
    Enter,
    Kind,
    Observations,
    OperationState,
    Rollback,
    SetWeight,
    Shares,
    Side,
    Stage,
    Verb,
    Wait,
)
from rotation.locking import lock as lock
from rotation.minutes import minutes_document
from rotation.models import KeySchedule, Operation, Rotation, RotationEvent, RotationRecord
from rotation.notices.writing import note
from rotation.observe import observe, snapshot
from rotation.policy import Policy, kept
from rotation.proof import proof_document
from rotation.routine import routine_due
from rotation.schedule import RETRY_AFTER

# More than the longest run of actions that need no answer from outside; a bound, not a pace.
ACTIONS_AT_ONCE = 12

# How an operation is announced after commit. The broker is a doorbell: losing the ring loses nothing.
Ring = Callable[[uuid.UUID], None]


@prepared
def _last_line(rotation_id: uuid.UUID) -> QuerySet[RotationEvent, int]:
    lines = RotationEvent.objects.filter(rotation_id=rotation_id).order_by("-sequence")
    return lines.values_list("sequence", flat=True)[:1]


@prepared
def _earlier(rotation_id: uuid.UUID, kind: str, side: str) -> QuerySet[Operation, int]:
    same = Operation.objects.filter(rotation_id=rotation_id, kind=kind, side=side).order_by()
    return same.values("kind").annotate(n=Count("id")).values_list("n", flat=True)


@transaction.atomic
def advance(rotation_id: uuid.UUID, now: datetime, *, ring: Ring | None = None) -> Rotation:
    """Do all that can be done about this rotation now; safe to call at any time, any number of times."""
    rotation = lock(rotation_id)
    return advance_locked(rotation, now, ring=ring)


def advance_locked(rotation: Rotation, now: datetime, *, ring: Ring | None = None) -> Rotation:
    """``advance`` for a rotation that the caller has locked, inside its transaction."""
    ring = ring or _bell
    for _ in range(ACTIONS_AT_ONCE):
        if rotation.attention == RESTORED:
            rotation.check_at = now + kept(rotation.policy).check_every
            update(rotation)
            break
        if not rotation.is_open:
            _clean_up(rotation, now, ring)
            update(rotation)
            break
        seen = observe(rotation, now)
        verdict = check(rotation, seen, now)
        state = snapshot(rotation)
        for call in routine_due(state, seen, now):
            _call(rotation, call, now, ring)
        action = decide(state, seen, verdict, now)
        _execute(rotation, action, seen, now, ring)
        update(rotation)  # each move by itself, so that the database can check it
        if isinstance(action, Wait | Call | Attention):
            break
    return rotation


def _execute(rotation: Rotation, action: Action, seen: Observations, now: datetime, ring: Ring) -> None:
    match action:
        case Wait():
            wait(rotation, action, now)
        case Call():
            _call(rotation, action, now, ring)
            rotation.check_at = now + kept(rotation.policy).check_every
        case SetWeight():
            _set_weight(rotation, action, seen, now)
        case Enter():
            _enter(rotation, action, seen, now)
        case Rollback():
            _roll_back(rotation, action, seen, now)
        case Attention():
            _attention(rotation, action, now)


def wait(rotation: Rotation, action: Wait, now: datetime) -> None:
    """Note what the rotation waits for, and when to look again. The caller saves it."""
    transition = newly_wanted(rotation, action)
    rotation.waiting_for, rotation.waiting_code = action.reason[:500], action.code
    rotation.check_at = action.until
    if transition:
        event(rotation, "approval:wanted", reason=action.reason, now=now, transition=transition)


def newly_wanted(rotation: Rotation, action: Wait) -> str:
    """The transition for which this wait begins to ask for approval; empty where it does not."""
    asks = action.code.startswith("approval_") and action.code != rotation.waiting_code
    return action.code.removeprefix("approval_") if asks else ""


def _note_progress(rotation: Rotation, now: datetime) -> None:
    """Every step forward is judged anew."""
    rotation.passes = rotation.failed_checks = 0
    rotation.advance_asked_at = None
    rotation.waiting_for = rotation.waiting_code = ""
    rotation.check_at = now


def event(
    rotation: Rotation,
    name: str,
    *,
    reason: str,
    now: datetime,
    actor: Actor = SYSTEM,
    shares: Shares | None = None,
    **details: Any,
) -> None:
    """One line in the timeline and one audit event, in the transaction of the change.

    ``shares``: how traffic was divided when a move was decided, so at the end of the step before it.
    The revision grows with the timeline: a check that changes nothing leaves a caller's ``If-Match`` valid.
    The caller saves the rotation.
    """
    rotation.revision += 1
    last = _last_line.first(rotation.id) or 0
    line = RotationEvent(
        rotation=rotation,
        sequence=last + 1,
        at=now,
        name=name,
        stage=rotation.stage,
        weight=rotation.weight,
        actor=actor.name,
        reason=reason[:500],
        shares=asdict(shares) if shares is not None else None,
    )
    insert(line)
    recorded = audit.record(
        f"rotation:{name}",
        actor=actor,
        now=now,
        key=rotation.key,
        subject=str(rotation.id),
        reason=reason[:500],
        rotation=str(rotation.id),
        **details,
    )
    code = str(details.get("code", ""))
    note(rotation, name, actor=actor, reason=reason, code=code, sequence=recorded.sequence, now=now)


# Executing -----------------------------------------------------------------------------------------


def _call(rotation: Rotation, action: Call, now: datetime, ring: Ring) -> None:
    """Record the intent. Nothing is called before this transaction has committed."""
    if action.kind is Kind.ISSUE and rotation.incoming is None:
        rotation.incoming = key_services.request_version(SYSTEM, rotation.key, now=now)
    version = rotation.incoming if action.side is Side.INCOMING else rotation.outgoing
    if version is None:
        raise RuntimeError(f"no {action.side} version to {action.kind}")
    if action.kind is Kind.REVOKE and action.side is Side.OUTGOING:
        _pass_the_point_of_no_return(rotation, now)
        if rotation.stage == Stage.REVOKE and _live(rotation, action) is not None:
            return  # an emergency or a cutover asked for it before everything else
    attempt = (_earlier.first(rotation.id, action.kind, action.side) or 0) + 1
    operation = Operation(
        rotation=rotation,
        kind=action.kind,
        side=action.side,
        version=version,
        attempt=attempt,
        label=f"keyturn-{rotation.id.hex[:20]}-{attempt}",
        created_at=now,
        retry_at=now,
    )
    insert(operation)
    if action.kind not in ROUTINE:
        event(
            rotation,
            "operation",
            reason=f"{action.kind} {action.side} v{version.number}",
            now=now,
            operation=str(action.kind),
            outcome="asked",
            attempt=attempt,
        )
    transaction.on_commit(lambda: ring(operation.id))


def _pass_the_point_of_no_return(rotation: Rotation, now: datetime) -> None:
    """The outgoing key is to be revoked. In a cutover nothing can take its place yet: the gap begins."""
    gap = rotation.stage != Stage.REVOKE and kept(rotation.policy).cutover
    if rotation.revoke_asked_at is not None or not (gap or rotation.stage == Stage.REVOKE):
        return
    rotation.revoke_asked_at = now
    if gap and rotation.outgoing is not None:
        rotation.no_fallback = True
        reason = "the outgoing key ends; there is none until the incoming one is verified"
        event(rotation, "gap", reason=reason, now=now, version=rotation.outgoing.number)


def ask(rotation: Rotation, kind: Kind, side: Side, now: datetime, *, ring: Ring | None = None) -> None:
    """Record an intent that a person asked for, on a rotation the caller has locked."""
    _call(rotation, Call(kind, side), now, ring or _bell)


def _live(rotation: Rotation, action: Call) -> Operation | None:
    return (
        Operation.objects.filter(rotation=rotation, kind=action.kind, side=action.side, superseded=False)
        .exclude(state=OperationState.FAILED)
        .first()
    )


def _no_bell(operation_id: uuid.UUID) -> None:
    """Without a broker the next tick finds the operation."""


_bell: Ring = _no_bell


def bell(ring: Ring | None) -> Ring:
    """The given way to announce an operation, or the one that is hung."""
    return ring or _bell


def hang_bell(ring: Ring) -> None:
    """How operations are announced where the caller names no way. Set once, when the app is ready."""
    global _bell
    _bell = ring


def _set_weight(rotation: Rotation, action: SetWeight, seen: Observations, now: datetime) -> None:
    if action.weight > rotation.weight or rotation.key.weight != action.weight:
        key_services.set_weight(SYSTEM, rotation.key, action.weight, now=now)
    rotation.step, rotation.weight, rotation.step_entered_at = action.step, action.weight, now
    _note_progress(rotation, now)
    event(
        rotation,
        "weight",
        reason=f"{action.weight} % of the instances get the incoming version",
        now=now,
        shares=seen.shares,
        weight=action.weight,
        step=action.step,
    )


def _enter(rotation: Rotation, action: Enter, seen: Observations, now: datetime) -> None:
    was, policy = rotation.stage, kept(rotation.policy)
    rotation.stage, rotation.stage_entered_at = action.stage, now
    _note_progress(rotation, now)
    _ENTRIES.get(action.stage, _enter_plainly)(rotation, policy, seen, now)
    details: dict[str, Any] = {"stage": str(action.stage), "was": str(was)}
    event(rotation, "stage", reason=action.reason, now=now, shares=seen.shares, **details)
    if action.stage in TERMINAL:
        _finish(rotation, now, check_at=None)


def _enter_plainly(rotation: Rotation, policy: Policy, seen: Observations, now: datetime) -> None:
    rotation.last_check_at = None


def _enter_deploy(rotation: Rotation, policy: Policy, seen: Observations, now: datetime) -> None:
    # Waiting for an approval or a window is no delay of the work itself.
    rotation.deadline_at = max(rotation.deadline_at, now + policy.deadline)


def _enter_shift(rotation: Rotation, policy: Policy, seen: Observations, now: datetime) -> None:
    check = seen.operations.get((Kind.VERIFY, Side.INCOMING))
    if check is not None and check.outcome == "outgoing_dead":
        rotation.no_fallback = True
    rotation.step, rotation.weight, rotation.step_entered_at = 0, 0, now
    take_baseline(rotation, now)
    if rotation.incoming is None:
        raise RuntimeError("nothing to shift to")
    if rotation.revoke_asked_at is not None:
        seconds = int((now - rotation.revoke_asked_at).total_seconds())
        reason = f"{seconds} s without a key, at the most"
        event(rotation, "gap:over", reason=reason, now=now, version=rotation.incoming.number, seconds=seconds)
    key_services.offer(
        SYSTEM,
        rotation.key,
        rotation.incoming,
        salt=bytes(rotation.salt),
        canaries=policy.canaries,
        pinned=policy.pinned,
        refresh_seconds=max(1, int(policy.refresh.total_seconds())),
        now=now,
    )


def _enter_monitor(rotation: Rotation, policy: Policy, seen: Observations, now: datetime) -> None:
    key_services.promote(SYSTEM, rotation.key, now=now)
    rotation.weight, rotation.monitored_seconds, rotation.last_check_at = 100, 0, None
    rotation.clock = None


def _enter_revoke(rotation: Rotation, policy: Policy, seen: Observations, now: datetime) -> None:
    RotationRecord.objects.update_or_create(
        rotation=rotation, defaults={"proof": proof_document(rotation, policy, now)}
    )
    key_services.retire_previous(SYSTEM, rotation.key, now=now)


def _enter_cancelled(rotation: Rotation, policy: Policy, seen: Observations, now: datetime) -> None:
    if rotation.incoming is not None and rotation.incoming.state == State.REQUESTED:
        key_services.mark_destroyed(SYSTEM, rotation.key, rotation.incoming, now=now)


_ENTRIES: dict[Stage, Callable[[Rotation, Policy, Observations, datetime], None]] = {
    Stage.DEPLOY: _enter_deploy,
    Stage.SHIFT: _enter_shift,
    Stage.MONITOR: _enter_monitor,
    Stage.REVOKE: _enter_revoke,
    Stage.CANCELLED: _enter_cancelled,
}


def _finish(rotation: Rotation, now: datetime, *, check_at: datetime | None) -> None:
    rotation.finished_at, rotation.check_at = now, check_at
    rotation.paused = False
    rotation.attention = rotation.attention_reason = ""
    rotation.attention_verbs = []
    minutes = minutes_document(rotation, now)
    RotationRecord.objects.update_or_create(rotation=rotation, defaults={"minutes": minutes})
    schedule = KeySchedule.objects.select_for_update().filter(key=rotation.key_id).first()
    if schedule is not None:
        if rotation.stage == Stage.SUCCEEDED:
            schedule.last_rotation_at = now
        _set_date(schedule, rotation, now)
    event(rotation, "finished", reason=str(rotation.stage), now=now, stage=str(rotation.stage))


def _set_date(schedule: KeySchedule, rotation: Rotation, now: datetime) -> None:
    due = due_of(rotation.key, schedule.policy.value, since=now)
    at = due.at if due is not None else None
    if at is not None and rotation.stage != Stage.SUCCEEDED:
        at = max(at, now + RETRY_AFTER)
    schedule.next_rotation_at = at
    schedule.trigger, schedule.reason = (due.trigger, due.reason[:500]) if due else ("schedule", "")
    schedule.held_until, schedule.held_code, schedule.held_reason = None, "", ""
    schedule.save()


def _roll_back(rotation: Rotation, action: Rollback, seen: Observations, now: datetime) -> None:
    key, incoming = rotation.key, rotation.incoming
    if incoming is None:
        raise RuntimeError("nothing to roll back")
    if incoming.id in (key.pending_id, key.current_id):
        key_services.roll_back(SYSTEM, key, incoming, outgoing=rotation.outgoing, now=now)
    else:
        key_services.withhold(incoming, now=now)
    was = rotation.stage
    rotation.stage, rotation.stage_entered_at, rotation.weight = Stage.ROLLED_BACK, now, 0
    rotation.rolled_back_reason = action.reason[:500]
    _note_progress(rotation, now)
    event(rotation, "rollback", reason=action.reason, now=now, version=incoming.number)
    details: dict[str, Any] = {"stage": str(Stage.ROLLED_BACK), "was": str(was)}
    event(rotation, "stage", reason=action.reason, now=now, shares=seen.shares, **details)
    _finish(rotation, now, check_at=now + kept(rotation.policy).cool_off)


def _attention(rotation: Rotation, action: Attention, now: datetime) -> None:
    rotation.waiting_for, rotation.waiting_code = action.reason[:500], action.code
    rotation.check_at = now + kept(rotation.policy).check_every
    if rotation.attention == action.code:
        return
    rotation.attention, rotation.attention_reason = action.code, action.reason[:500]
    # Where a cutover has asked for the revoke there is nothing to go back to.
    offered = [verb for verb in action.verbs if verb is not Verb.ABORT or rotation.revoke_asked_at is None]
    rotation.attention_verbs = [str(verb) for verb in offered]
    event(rotation, "attention", reason=action.reason, now=now, code=action.code)


def call_person(rotation: Rotation, action: Attention, now: datetime) -> None:
    """Stop a rotation that the caller has locked, whatever it was about to do."""
    _attention(rotation, action, now)
    update(rotation)


def _clean_up(rotation: Rotation, now: datetime, ring: Ring) -> None:
    """One step of what a finished rotation left to do."""
    if rotation.check_at is None or rotation.stage != Stage.ROLLED_BACK:
        return
    due = (rotation.finished_at or now) + kept(rotation.policy).cool_off
    action = clean_up(snapshot(rotation), observe(rotation, now), due_at=due, now=now)
    if action is None:
        rotation.check_at = None
        rotation.waiting_for = rotation.waiting_code = ""
    else:
        _execute(rotation, action, Observations(), now, ring)
