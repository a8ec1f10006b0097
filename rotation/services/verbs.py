"""What a person may tell an open rotation: each verb records who and why, then lets the engine go on.

Every verb takes the actor, the id of the rotation, and ``How``. It raises ``permission_denied``,
``precondition_failed`` where ``revision`` is not the rotation's any more, and ``invalid_transition`` with the
state and the verbs that are possible.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NotRequired, TypedDict, Unpack

from django.db import transaction
from django.db.models import F, Q

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.domain import State
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.models import User
from keyvault.services import keys as key_services
from rotation import engine
from rotation.approvals import approvals_of, counted, is_requester, lapses, names_of
from rotation.decide import allowed_verbs
from rotation.facts import RESTORED, Kind, OperationState, Side, Stage, Verb
from rotation.models import Approval, Operation, Rotation
from rotation.observe import snapshot
from rotation.planned import rotation_digest
from rotation.policy import APPROVALS, from_json
from rotation.proof import offenders
from rotation.services import restoring

APPROVAL_LIFE = timedelta(hours=24)
REVIEW_WITHIN = timedelta(hours=24)
LONGEST_EXTENSION = timedelta(days=30)
_LEADS = frozenset({Verb.SUPPLY, Verb.FORCE_REVOKE})  # all other verbs are for operators too
_WAITS = {f"approval_{transition}": transition for transition in APPROVALS}


class How(TypedDict):
    """Why and when. ``revision``: as the person saw the rotation. ``ring``: how operations are announced."""

    reason: str
    now: datetime
    revision: NotRequired[int | None]
    ring: NotRequired[engine.Ring | None]


@dataclass(frozen=True)
class Said:
    """Who said something, why and when."""

    actor: Actor
    reason: str
    now: datetime


def in_progress(rotation: Rotation) -> KeyturnError:
    """The answer to a second rotation of the same key."""
    return KeyturnError(
        "rotation_in_progress",
        "Another rotation of this key is open.",
        extra={"rotation": str(rotation.id), "stage": str(rotation.stage), "verbs": list(verbs_of(rotation))},
    )


def verbs_of(rotation: Rotation) -> tuple[str, ...]:
    """The verbs that this rotation takes now."""
    waiting = rotation.waiting_code in _WAITS
    asked = tuple(Verb(verb) for verb in rotation.attention_verbs)
    return tuple(str(verb) for verb in allowed_verbs(snapshot(rotation), asked, wants_approval=waiting))


def pause(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Stop progress; protection goes on."""
    return _run(Verb.PAUSE, _pause, actor, rotation_id, how)


def resume(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Go on after a pause or an attention. What failed is tried again; a passed deadline is extended."""
    return _run(Verb.RESUME, _resume, actor, rotation_id, how)


def advance(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Go to the next step now, on this person's word instead of the hold and the verdict."""
    return _run(Verb.ADVANCE, _advance, actor, rotation_id, how)


def abort(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Give up: cancelled where nothing was created, rolled back otherwise."""
    return _run(Verb.ABORT, _abort, actor, rotation_id, how)


def approve(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    transition: str = "",
    plan: str = "",
    **how: Unpack[How],
) -> Rotation:
    """Say yes to one transition (see ``transition_asked``), under the plan as it is now. Never to one's own.

    ``plan``: the digest of the plan that the person saw; another one now is refused.
    """
    return _decide(_approve, actor, rotation_id, transition, plan, how)


def decline(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    transition: str = "",
    plan: str = "",
    **how: Unpack[How],
) -> Rotation:
    """Say no to one transition. A start is cancelled; any other rotation pauses until somebody resumes it."""
    return _decide(_decline, actor, rotation_id, transition, plan, how)


def break_glass(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    transition: str = "",
    plan: str = "",
    **how: Unpack[How],
) -> Rotation:
    """Approve alone, also what one asked for. Needs the role lead and a reason; another person reviews it."""
    return _decide(_break_glass, actor, rotation_id, transition, plan, how)


def _decide(
    decision: Callable[[Rotation, Said, str, str], None],
    actor: Actor,
    rotation_id: uuid.UUID,
    transition: str,
    plan: str,
    how: How,
) -> Rotation:
    def change(rotation: Rotation, said: Said) -> None:
        decision(rotation, said, transition or transition_asked(rotation), plan)

    return _run(Verb.APPROVE, change, actor, rotation_id, how)


def transition_asked(rotation: Rotation) -> str:
    """The transition that an approval is for: what it waits for, else forcing the revoke."""
    return _WAITS.get(rotation.waiting_code, "force")


def extend(actor: Actor, rotation_id: uuid.UUID, *, by: timedelta, **how: Unpack[How]) -> Rotation:
    """Give it more time: the deadline, or now where that has passed, and ``by`` on top (30 days at most)."""

    def change(rotation: Rotation, said: Said) -> None:
        _extend(rotation, said, by)

    return _run(Verb.EXTEND, change, actor, rotation_id, how)


def confirm_revoked(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """A person revoked the key at the provider. A probe will have to find it dead."""
    return _run(Verb.CONFIRM_REVOKED, _confirm_revoked, actor, rotation_id, how)


def supply(
    actor: Actor,
    rotation_id: uuid.UUID,
    *,
    secret: Secret,
    provider_key_id: str = "",
    expires_at: datetime | None = None,
    **how: Unpack[How],
) -> Rotation:
    """Paste the new key that a person created at the provider, and when it expires there. Takes a lead."""

    def change(rotation: Rotation, said: Said) -> None:
        _supply(rotation, said, secret, provider_key_id, expires_at)

    return _run(Verb.SUPPLY, change, actor, rotation_id, how)


def force_revoke(
    actor: Actor, rotation_id: uuid.UUID, *, offender_count: int, **how: Unpack[How]
) -> Rotation:
    """Revoke although the outgoing version is not proved quiet. The number of offenders must be typed.

    Needs the role lead, and in a protected environment another person's approval.
    """

    def change(rotation: Rotation, said: Said) -> None:
        _force_revoke(rotation, said, offender_count)

    return _run(Verb.FORCE_REVOKE, change, actor, rotation_id, how)


def _run(
    verb: Verb, change: Callable[[Rotation, Said], None], actor: Actor, rotation_id: uuid.UUID, how: How
) -> Rotation:
    """Lock, check the right and the state, change, let the engine go on: one transaction."""
    now, revision = how["now"], how.get("revision")
    with transaction.atomic():
        rotation = engine.lock(rotation_id)
        actor.demand("manage" if verb in _LEADS else "operate", rotation.key.service.team_id)
        if revision is not None and revision != rotation.revision:
            raise KeyturnError("precondition_failed", "The rotation has moved on. Look at it again.")
        verbs = verbs_of(rotation)
        if verb not in verbs:
            raise KeyturnError(
                "invalid_transition",
                _refusal(verb, rotation),
                extra={"state": str(rotation.stage), "verbs": list(verbs)},
            )
        change(rotation, Said(actor, how["reason"], now))
        rotation.check_at = now
        rotation.save()
        return engine.advance_locked(rotation, now, ring=how.get("ring"))


def _refusal(verb: Verb, rotation: Rotation) -> str:
    if verb is Verb.ABORT and rotation.revoke_asked_at is not None:
        text = "The outgoing key may be revoked already, so there is nothing to go back to. "
        return text + ("Use emergency." if rotation.stage == Stage.REVOKE else "Finish the new key.")
    if not rotation.is_open:
        return f"This rotation is finished ({rotation.stage}). Start a new one."
    return f"'{verb}' is not possible now."


def _note(rotation: Rotation, said: Said, name: str, **details: Any) -> None:
    engine.event(rotation, name, reason=said.reason, now=said.now, actor=said.actor, **details)


def _clear_attention(rotation: Rotation, said: Said) -> None:
    if rotation.attention:
        code, rotation.attention = rotation.attention, ""
        rotation.attention_reason, rotation.attention_verbs = "", []
        _note(rotation, said, "attention:cleared", code=code)


def _pause(rotation: Rotation, said: Said) -> None:
    rotation.paused = True
    _note(rotation, said, "paused", code="operator")


def _resume(rotation: Rotation, said: Said) -> None:
    rotation.paused = False
    _forget(rotation, *Kind)
    if rotation.attention == RESTORED:
        restoring.reconcile(rotation, said.now)
    if rotation.deadline_at <= said.now:
        rotation.deadline_at = said.now + from_json(rotation.policy).deadline
    _clear_attention(rotation, said)
    _note(rotation, said, "resumed")


def _forget(rotation: Rotation, *kinds: Kind) -> None:
    """Let failed steps be tried again: their operations no longer count.

    What may have made a key still does: the provider has to be asked for that key first.
    """
    settled = Operation.objects.filter(rotation=rotation, kind__in=kinds).exclude(
        state__in=[OperationState.PENDING, OperationState.RUNNING]
    )
    lasting = [Kind.DISABLE, Kind.REVOKE, Kind.ISSUE]
    kept = Q(kind__in=lasting, state=OperationState.DONE) | Q(kind=Kind.ISSUE, state=OperationState.UNKNOWN)
    settled.exclude(kept).update(superseded=True)


def _advance(rotation: Rotation, said: Said) -> None:
    _clear_attention(rotation, said)
    rotation.advance_asked_at = said.now
    _note(rotation, said, "advanced", stage=str(rotation.stage))


def _abort(rotation: Rotation, said: Said) -> None:
    rotation.abort_asked_at = said.now
    if rotation.attention == RESTORED:
        restoring.reconcile(rotation, said.now)
        _clear_attention(rotation, said)
    # An issue that nobody has begun (or that the provider turned away) need not happen any more.
    Operation.objects.filter(rotation=rotation, kind=Kind.ISSUE, state=OperationState.PENDING).update(
        state=OperationState.FAILED,
        outcome="aborted",
        fence=F("fence") + 1,
        retry_at=None,
        finished_at=said.now,
    )
    _note(rotation, said, "abort:asked")


def _approve(rotation: Rotation, said: Said, transition: str, plan: str) -> None:
    user = _voter(said.actor)
    if is_requester(rotation, user):
        raise denied("Another person must approve this: you asked for it.")
    digest = _seen_plan(rotation, plan)
    Approval.objects.update_or_create(
        rotation=rotation,
        transition=transition,
        user=user,
        review_due_at=None,
        defaults={
            "plan": digest,
            "reason": said.reason,
            "created_at": said.now,
            "expires_at": said.now + APPROVAL_LIFE,
        },
    )
    _note(rotation, said, "approved", transition=transition, plan=digest)


def _voter(actor: Actor) -> User:
    user = _person(actor)
    if user is None:
        raise denied("Only a person can approve this.")
    return user


def _seen_plan(rotation: Rotation, plan: str) -> str:
    """The digest of the plan as it is now; refused where the person saw another one."""
    digest = rotation_digest(rotation)
    if plan and plan != digest:
        raise KeyturnError("precondition_failed", "The plan has changed since you looked at it.")
    return digest


def _decline(rotation: Rotation, said: Said, transition: str, plan: str) -> None:
    if is_requester(rotation, _voter(said.actor)):
        raise denied("You asked for it yourself. To take it back, abort the rotation.")
    digest = _seen_plan(rotation, plan)
    # What others gave is not held against this no: they may give it again.
    standing = Approval.objects.filter(rotation=rotation, transition=transition, expires_at__gt=said.now)
    standing.update(expires_at=said.now)
    _note(rotation, said, "declined", transition=transition, plan=digest)
    if transition == "start":
        _abort(rotation, said)
    elif rotation.waiting_code in _WAITS:
        _pause(rotation, said)


def _break_glass(rotation: Rotation, said: Said, transition: str, plan: str) -> None:
    said.actor.demand("manage", rotation.key.service.team_id)
    user = _voter(said.actor)
    if not said.reason.strip():
        raise invalid("reason", "Say why this cannot wait for another person.")
    digest, due = _seen_plan(rotation, plan), said.now + REVIEW_WITHIN
    Approval.objects.create(
        rotation=rotation,
        transition=transition,
        user=user,
        plan=digest,
        reason=said.reason,
        created_at=said.now,
        expires_at=said.now + APPROVAL_LIFE,
        review_due_at=due,
    )
    _note(rotation, said, "glass:broken", transition=transition, plan=digest, review_by=due.isoformat())


def _person(actor: Actor) -> User | None:
    return User.objects.get(pk=actor.user_id) if actor.user_id is not None else None


def _extend(rotation: Rotation, said: Said, by: timedelta) -> None:
    if not timedelta(0) < by <= LONGEST_EXTENSION:
        raise invalid("by", f"Use a time of up to {LONGEST_EXTENSION.days} days.")
    was = rotation.deadline_at
    rotation.deadline_at = max(was, said.now) + by
    if rotation.attention in ("overdue", "stragglers"):
        _clear_attention(rotation, said)
    _note(rotation, said, "extended", deadline=rotation.deadline_at.isoformat(), was=was.isoformat())


def _supply(
    rotation: Rotation, said: Said, secret: Secret, provider_key_id: str, expires_at: datetime | None
) -> None:
    if rotation.incoming is None:
        rotation.incoming = key_services.request_version(said.actor, rotation.key, now=said.now)
    key_services.fill_version(
        said.actor,
        rotation.key,
        rotation.incoming,
        secret,
        provider_key_id=provider_key_id,
        imported=True,
        expires_at=expires_at,
        now=said.now,
    )
    _settle_by_person(rotation, Kind.ISSUE, Side.INCOMING, "supplied", said.now)
    _clear_attention(rotation, said)
    _note(rotation, said, "supplied", version=rotation.incoming.number)


def _settle_by_person(rotation: Rotation, kind: Kind, side: Side, outcome: str, now: datetime) -> None:
    """What a person did stands; a worker still busy with it settles nothing (its fence is gone)."""
    unsettled = Operation.objects.filter(rotation=rotation, kind=kind, side=side, superseded=False)
    unsettled.exclude(state=OperationState.DONE).update(
        state=OperationState.DONE,
        outcome=outcome,
        fence=F("fence") + 1,
        retry_at=None,
        lease_until=None,
        finished_at=now,
    )


def _confirm_revoked(rotation: Rotation, said: Said) -> None:
    side = Side.INCOMING if rotation.stage == Stage.ROLLED_BACK else Side.OUTGOING
    version = rotation.incoming if side is Side.INCOMING else rotation.outgoing
    if version is None:
        raise denied("There is no key to revoke.")
    _settle_by_person(rotation, Kind.REVOKE, side, "confirmed", said.now)
    if version.state in (State.ACTIVE, State.DISABLED):
        key_services.mark_revoked(said.actor, rotation.key, version, now=said.now)
    _forget(rotation, Kind.CONFIRM)
    _clear_attention(rotation, said)
    _note(rotation, said, "revoke:confirmed", version=version.number)


def _force_revoke(rotation: Rotation, said: Said, offender_count: int) -> None:
    found = [offender.who for offender in offenders(rotation, from_json(rotation.policy), said.now)]
    if offender_count != len(found):
        raise KeyturnError(
            "precondition_failed",
            f"{len(found)} instance(s) still use the outgoing key. Type that number to confirm.",
            extra={"offenders": found},
        )
    _demand_other_approval(rotation, said)
    rotation.force_asked_at = said.now
    _clear_attention(rotation, said)
    number = rotation.outgoing.number if rotation.outgoing is not None else None
    _note(rotation, said, "revoke:forced", version=number, offenders=found)


def _demand_other_approval(rotation: Rotation, said: Said) -> None:
    """Forcing takes as many others as the policy says; in a protected environment at least one."""
    needed = from_json(rotation.policy).approvals.get("force", 0)
    if rotation.key.environment.protected:
        needed = max(needed, 1)
    user = _person(said.actor)
    given = approvals_of(rotation, said.now)
    missing = needed - counted(given, "force", but=names_of(user) if user else frozenset())
    if missing <= 0:
        return
    lapsed = lapses(given).get("force")
    raise KeyturnError(
        "approval_required",
        f"Forcing this revoke needs the approval of {missing} other person(s)."
        + (f" Note: {lapsed}." if lapsed else ""),
    )
