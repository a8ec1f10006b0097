"""What a person may tell an open rotation: each verb records who and why, then lets the engine go on.

Every verb takes the actor, the id of the rotation, and ``How``. It raises ``permission_denied``,
``precondition_failed`` where ``revision`` is not the rotation's any more, and ``invalid_transition`` with the
state and the verbs that are possible.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Unpack

from django.db.models import F, Q

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.domain import State
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.models import User
from keyvault.services import keys as key_services
from rotation.approvals import approvals_of, counted, lapses, names_of
from rotation.facts import RESTORED, Kind, OperationState, Side, Stage, Verb
from rotation.models import Operation, Rotation
from rotation.policy import from_json
from rotation.proof import offenders
from rotation.services import restoring
from rotation.services.saying import How, Said, note, run

LONGEST_EXTENSION = timedelta(days=30)


def pause(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Stop progress; protection goes on."""
    return run(Verb.PAUSE, stand_still, actor, rotation_id, how)


def resume(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Go on after a pause or an attention. What failed is tried again; a passed deadline is extended."""
    return run(Verb.RESUME, _resume, actor, rotation_id, how)


def advance(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Go to the next step now, on this person's word instead of the hold and the verdict."""
    return run(Verb.ADVANCE, _advance, actor, rotation_id, how)


def abort(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """Give up: cancelled where nothing was created, rolled back otherwise."""
    return run(Verb.ABORT, give_up, actor, rotation_id, how)


def extend(actor: Actor, rotation_id: uuid.UUID, *, by: timedelta, **how: Unpack[How]) -> Rotation:
    """Give it more time: the deadline, or now where that has passed, and ``by`` on top (30 days at most)."""

    def change(rotation: Rotation, said: Said) -> None:
        _extend(rotation, said, by)

    return run(Verb.EXTEND, change, actor, rotation_id, how)


def confirm_revoked(actor: Actor, rotation_id: uuid.UUID, **how: Unpack[How]) -> Rotation:
    """A person revoked the key at the provider. A probe will have to find it dead."""
    return run(Verb.CONFIRM_REVOKED, _confirm_revoked, actor, rotation_id, how)


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

    return run(Verb.SUPPLY, change, actor, rotation_id, how)


def force_revoke(
    actor: Actor, rotation_id: uuid.UUID, *, offender_count: int, **how: Unpack[How]
) -> Rotation:
    """Revoke although the outgoing version is not proved quiet. The number of offenders must be typed.

    Needs the role lead, and in a protected environment another person's approval.
    """

    def change(rotation: Rotation, said: Said) -> None:
        _force_revoke(rotation, said, offender_count)

    return run(Verb.FORCE_REVOKE, change, actor, rotation_id, how)


def _clear_attention(rotation: Rotation, said: Said) -> None:
    if rotation.attention:
        code, rotation.attention = rotation.attention, ""
        rotation.attention_reason, rotation.attention_verbs = "", []
        note(rotation, said, "attention:cleared", code=code)


def stand_still(rotation: Rotation, said: Said) -> None:
    """The change that ``pause`` makes, under the lock."""
    rotation.paused = True
    note(rotation, said, "paused", code="operator")


def _resume(rotation: Rotation, said: Said) -> None:
    rotation.paused = False
    _forget(rotation, *Kind)
    if rotation.attention == RESTORED:
        restoring.reconcile(rotation, said.now)
    if rotation.deadline_at <= said.now:
        rotation.deadline_at = said.now + from_json(rotation.policy).deadline
    _clear_attention(rotation, said)
    note(rotation, said, "resumed")


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
    note(rotation, said, "advanced", stage=str(rotation.stage))


def give_up(rotation: Rotation, said: Said) -> None:
    """The change that ``abort`` makes, under the lock."""
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
    note(rotation, said, "abort:asked")


def person(actor: Actor) -> User | None:
    """Who the actor is, or None for one that is no person."""
    return User.objects.get(pk=actor.user_id) if actor.user_id is not None else None


def _extend(rotation: Rotation, said: Said, by: timedelta) -> None:
    if not timedelta(0) < by <= LONGEST_EXTENSION:
        raise invalid("by", f"Use a time of up to {LONGEST_EXTENSION.days} days.")
    was = rotation.deadline_at
    rotation.deadline_at = max(was, said.now) + by
    if rotation.attention in ("overdue", "stragglers"):
        _clear_attention(rotation, said)
    note(rotation, said, "extended", deadline=rotation.deadline_at.isoformat(), was=was.isoformat())


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
    note(rotation, said, "supplied", version=rotation.incoming.number)


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
    note(rotation, said, "revoke:confirmed", version=version.number)


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
    note(rotation, said, "revoke:forced", version=number, offenders=found)


def _demand_other_approval(rotation: Rotation, said: Said) -> None:
    """Forcing takes as many others as the policy says; in a protected environment at least one."""
    needed = from_json(rotation.policy).approvals.get("force", 0)
    if rotation.key.environment.protected:
        needed = max(needed, 1)
    user = person(said.actor)
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
