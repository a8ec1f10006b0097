"""What a person may tell an open rotation: each verb records who and why, then lets the engine go on."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.domain import State
from keyvault.exceptions import KeyturnError, denied
from keyvault.models import KeyVersion
from keyvault.services import keys as key_services
from rotation import engine
from rotation.decide import allowed_verbs
from rotation.facts import Kind, OperationState, Side, Stage, Verb
from rotation.models import Approval, Operation, Rotation
from rotation.observe import offenders, snapshot
from rotation.policy import from_json

APPROVAL_LIFE = timedelta(hours=24)
_TRANSITIONS = {"approval_start": "start", "approval_revoke": "revoke"}


def in_progress(rotation: Rotation) -> KeyturnError:
    """The answer to a second rotation of the same key."""
    return KeyturnError(
        "rotation_in_progress",
        "Another rotation of this key is open.",
        extra={"rotation": str(rotation.id), "stage": str(rotation.stage), "verbs": list(verbs_of(rotation))},
    )


def verbs_of(rotation: Rotation) -> tuple[str, ...]:
    """The verbs that this rotation takes now."""
    waiting = rotation.waiting_code in _TRANSITIONS
    asked = tuple(Verb(verb) for verb in rotation.attention_verbs)
    return tuple(str(verb) for verb in allowed_verbs(snapshot(rotation), asked, wants_approval=waiting))


def _run(
    actor: Actor,
    rotation_id: uuid.UUID,
    verb: Verb,
    change: Callable[[Rotation], None],
    *,
    now: datetime,
    revision: int | None,
    ring: engine.Ring | None,
) -> Rotation:
    """Lock, check the right and the state, change, let the engine go on: one transaction."""
    with transaction.atomic():
        rotation = engine.lock(rotation_id)
        actor.demand("operate", rotation.key.service.team_id)
        if revision is not None and revision != rotation.revision:
            raise KeyturnError("precondition_failed", "The rotation has moved on. Look at it again.")
        verbs = verbs_of(rotation)
        if verb not in verbs:
            raise KeyturnError(
                "invalid_transition",
                _refusal(verb, rotation),
                extra={"state": str(rotation.stage), "verbs": list(verbs)},
            )
        change(rotation)
        rotation.check_at = now
        rotation.save()
        return engine.advance_locked(rotation, now, ring=ring)


def _refusal(verb: Verb, rotation: Rotation) -> str:
    if verb is Verb.ABORT and rotation.revoke_asked_at is not None:
        return "The outgoing key may be revoked already, so there is nothing to go back to. Use emergency."
    if not rotation.is_open:
        return f"This rotation is finished ({rotation.stage}). Start a new one."
    return f"'{verb}' is not possible now."


def _clear_attention(rotation: Rotation, actor: Actor, reason: str, now: datetime) -> None:
    if rotation.attention:
        code, rotation.attention = rotation.attention, ""
        rotation.attention_reason, rotation.attention_verbs = "", []
        engine.event(rotation, "attention:cleared", reason=reason, now=now, actor=actor, code=code)


def _forget(rotation: Rotation, *kinds: Kind) -> None:
    """Let failed steps be tried again: their operations no longer count."""
    Operation.objects.filter(rotation=rotation, kind__in=kinds).exclude(
        state__in=[OperationState.PENDING, OperationState.RUNNING]
    ).exclude(kind__in=[Kind.DISABLE, Kind.REVOKE, Kind.ISSUE], state=OperationState.DONE).update(
        superseded=True
    )


def pause(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Stop progress; protection goes on."""

    def change(rotation: Rotation) -> None:
        rotation.paused = True
        engine.event(rotation, "paused", reason=reason, now=now, actor=actor, code="operator")

    return _run(actor, rotation_id, Verb.PAUSE, change, now=now, revision=revision, ring=ring)


def resume(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Go on after a pause or an attention. What failed is tried again; a passed deadline is extended."""

    def change(rotation: Rotation) -> None:
        rotation.paused = False
        _forget(rotation, *Kind)
        if rotation.deadline_at <= now:
            rotation.deadline_at = now + from_json(rotation.policy).deadline
        _clear_attention(rotation, actor, reason, now)
        engine.event(rotation, "resumed", reason=reason, now=now, actor=actor)

    return _run(actor, rotation_id, Verb.RESUME, change, now=now, revision=revision, ring=ring)


def advance(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Go to the next step now, on this person's word instead of the hold and the verdict."""

    def change(rotation: Rotation) -> None:
        _clear_attention(rotation, actor, reason, now)
        rotation.advance_asked_at = now
        engine.event(rotation, "advanced", reason=reason, now=now, actor=actor, stage=str(rotation.stage))

    return _run(actor, rotation_id, Verb.ADVANCE, change, now=now, revision=revision, ring=ring)


def abort(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Give up: cancelled where nothing was created, rolled back otherwise."""

    def change(rotation: Rotation) -> None:
        rotation.abort_asked_at = now
        # An issue that nobody has begun (or that the provider turned away) need not happen any more.
        Operation.objects.filter(rotation=rotation, kind=Kind.ISSUE, state=OperationState.PENDING).update(
            state=OperationState.FAILED,
            outcome="aborted",
            fence=F("fence") + 1,
            retry_at=None,
            finished_at=now,
        )
        engine.event(rotation, "abort:asked", reason=reason, now=now, actor=actor)

    return _run(actor, rotation_id, Verb.ABORT, change, now=now, revision=revision, ring=ring)


def supply(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    secret: Secret,
    provider_key_id: str = "",
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Paste the new key that a person created at the provider."""

    def change(rotation: Rotation) -> None:
        actor.demand("manage", rotation.key.service.team_id)
        if rotation.incoming is None:
            rotation.incoming = key_services.request_version(actor, rotation.key, now=now)
        key_services.fill_version(
            actor,
            rotation.key,
            rotation.incoming,
            secret,
            provider_key_id=provider_key_id,
            imported=True,
            now=now,
        )
        _settle_by_person(rotation, Kind.ISSUE, Side.INCOMING, "supplied", now)
        _clear_attention(rotation, actor, reason, now)
        engine.event(
            rotation, "supplied", reason=reason, now=now, actor=actor, version=rotation.incoming.number
        )

    return _run(actor, rotation_id, Verb.SUPPLY, change, now=now, revision=revision, ring=ring)


def _settle_by_person(rotation: Rotation, kind: Kind, side: Side, outcome: str, now: datetime) -> None:
    """What a person did stands; a worker still busy with it settles nothing (its fence is gone)."""
    Operation.objects.filter(rotation=rotation, kind=kind, side=side, superseded=False).exclude(
        state=OperationState.DONE
    ).update(
        state=OperationState.DONE,
        outcome=outcome,
        fence=F("fence") + 1,
        retry_at=None,
        lease_until=None,
        finished_at=now,
    )


def confirm_revoked(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """A person revoked the key at the provider. A probe will have to find it dead."""

    def change(rotation: Rotation) -> None:
        side = Side.INCOMING if rotation.stage == Stage.ROLLED_BACK else Side.OUTGOING
        version = rotation.incoming if side is Side.INCOMING else rotation.outgoing
        if version is None:
            raise denied("There is no key to revoke.")
        _settle_by_person(rotation, Kind.REVOKE, side, "confirmed", now)
        if version.state in (State.ACTIVE, State.DISABLED):
            key_services.mark_revoked(actor, rotation.key, version, now=now)
        _forget(rotation, Kind.CONFIRM)
        _clear_attention(rotation, actor, reason, now)
        engine.event(
            rotation, "revoke:confirmed", reason=reason, now=now, actor=actor, version=version.number
        )

    return _run(actor, rotation_id, Verb.CONFIRM_REVOKED, change, now=now, revision=revision, ring=ring)


def force_revoke(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    offender_count: int,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Revoke although the outgoing version is not proved quiet. The number of offenders must be typed."""

    def change(rotation: Rotation) -> None:
        actor.demand("manage", rotation.key.service.team_id)
        found = offenders(rotation, from_json(rotation.policy), now)
        if offender_count != len(found):
            raise KeyturnError(
                "precondition_failed",
                f"{len(found)} instance(s) still use the outgoing key. Type that number to confirm.",
                extra={"offenders": [offender.who for offender in found]},
            )
        _demand_other_approval(rotation, actor, now)
        rotation.force_asked_at = now
        _clear_attention(rotation, actor, reason, now)
        outgoing: KeyVersion | None = rotation.outgoing
        engine.event(
            rotation,
            "revoke:forced",
            reason=reason,
            now=now,
            actor=actor,
            version=outgoing.number if outgoing else None,
            offenders=[o.who for o in found],
        )

    return _run(actor, rotation_id, Verb.FORCE_REVOKE, change, now=now, revision=revision, ring=ring)


def _demand_other_approval(rotation: Rotation, actor: Actor, now: datetime) -> None:
    """In a protected environment somebody else must have approved the revoke."""
    if not rotation.key.environment.protected:
        return
    others = Approval.objects.filter(rotation=rotation, transition="revoke", expires_at__gt=now)
    others = others.exclude(user__username=actor.name)
    if not others.exists():
        raise KeyturnError(
            "approval_required",
            "Forcing a revoke in a protected environment needs another person's approval.",
        )


def approve(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    reason: str,
    now: datetime,
    revision: int | None = None,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Say yes to what the rotation waits for (its start, or the revoke). Never to one's own request."""

    def change(rotation: Rotation) -> None:
        if actor.user_id is None or actor.name == rotation.requested_by:
            raise denied("Another person must approve this: you asked for it.")
        transition = _TRANSITIONS.get(rotation.waiting_code, "revoke")
        Approval.objects.update_or_create(
            rotation=rotation,
            transition=transition,
            user_id=actor.user_id,
            defaults={"reason": reason, "created_at": now, "expires_at": now + APPROVAL_LIFE},
        )
        engine.event(rotation, "approved", reason=reason, now=now, actor=actor, transition=transition)

    return _run(actor, rotation_id, Verb.APPROVE, change, now=now, revision=revision, ring=ring)
