"""Emergency of one key: one of its secrets is known to others. What is done depends on where that is."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import transaction

from keyvault import jobs, readers
from keyvault.actors import Actor
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, KeyVersion
from keyvault.services import keys as key_services
from rotation import engine
from rotation.dates import EMERGENCY
from rotation.facts import Kind, OperationState, Side, Stage
from rotation.models import EmergencyItem, EmergencyRun, KeySchedule, Operation, Rotation, RotationPolicy
from rotation.plan import one_key_only
from rotation.policy import Policy, from_json, to_json
from rotation.services import starting

MODES = ("replace", "kill")
SEEN_SPAN = timedelta(hours=24)
_HONOURED = (State.ACTIVE, State.DISABLED)


class Way(StrEnum):
    """What an emergency does, by where the leaked version is."""

    START = "start"  # no rotation is open: one starts under the emergency policy
    HURRY = "hurry"  # the open rotation replaces it already: straight to everybody, then revoked
    ROLL_BACK = "roll_back"  # it is the incoming version: the outgoing one answers again
    REVOKE = "revoke"  # nobody is given it, but the provider still honours it: revoked without a cool-off
    WAIT = "wait"  # the open rotation cannot help: it is finished first, then another one starts
    NOTHING = "nothing"  # the provider refuses it already


def way_of(key: Key, leaked: KeyVersion, rotation: Rotation | None) -> Way:
    """What there is to do about a leaked version of this key; ``rotation`` is the open one.

    An aborted rotation whose incoming version is good goes on after all: going back would be to what leaked.
    """
    dead = leaked.state not in _HONOURED
    if rotation is None:
        if dead:
            return Way.START if key.current_id is None else Way.NOTHING
        return Way.START if leaked.id == key.current_id else Way.REVOKE
    if leaked.id == rotation.incoming_id:
        if dead:
            return Way.WAIT if key.current_id is None else Way.NOTHING
        return Way.ROLL_BACK if _can_go_back(rotation) else Way.WAIT
    if dead:
        return Way.NOTHING
    if leaked.id != rotation.outgoing_id:
        return Way.REVOKE
    incoming = rotation.incoming
    both = incoming is not None and incoming.compromised_at is not None
    return Way.WAIT if both and rotation.abort_asked_at is not None else Way.HURRY


def _can_go_back(rotation: Rotation) -> bool:
    """A leaked outgoing version will do: it works, and it is replaced by another rotation right after."""
    outgoing = rotation.outgoing
    return (
        outgoing is not None
        and outgoing.state in _HONOURED
        and outgoing.withheld_at is None
        and rotation.revoke_asked_at is None
        and not rotation.no_fallback
    )


@dataclass(frozen=True)
class Done:
    """What was done, and the rotation that does it (for ``WAIT``: the one that is waited for)."""

    way: Way
    rotation: Rotation | None


@transaction.atomic
def emergency(
    actor: Actor,
    key: Key,
    *,
    mode: str,
    reason: str,
    now: datetime,
    version: int | None = None,
    typed: str = "",
    ring: engine.Ring | None = None,
) -> Rotation:
    """A secret of this key is known to others: that of ``version`` (its number), or the current one.

    ``replace``: a new version takes over at once, then the leaked one is revoked. ``kill``: the leaked one is
    withheld and revoked first, and consumers get nothing until the new one is there; where no other version
    could answer them, ``typed`` must be the name of the key (``precondition_failed`` tells who would suffer).
    Asking twice does nothing twice. Raises ``no_active_version`` and ``invalid_transition`` where nothing is
    left to do. What has to wait for the open rotation becomes a run of one key, which the scheduler starts.
    """
    named = None if version is None else key.versions.filter(number=version).first()
    rotation, key = lock_open(key, named)
    actor.demand("manage", key.service.team_id)
    leaked = key.current if version is None else named
    if leaked is None:
        raise KeyturnError("no_active_version", "This key has no such version.")
    if mode == "kill" and typed != str(key) and is_last(key, leaked):
        raise _unconfirmed(key, leaked, now)
    done = act(actor, key, leaked, rotation, mode=mode, reason=reason, now=now, ring=ring)
    if done.rotation is None:
        raise KeyturnError("invalid_transition", "The provider refuses this version already.")
    if done.way is Way.WAIT:
        _queue(actor, key, leaked, mode=mode, reason=reason, now=now)
    return done.rotation


def lock_open(key: Key, leaked: KeyVersion | None) -> tuple[Rotation | None, Key]:
    """The open rotation of this key, if there is one, and the key: both locked.

    Rotations before the key: crosswise with a tick, the database would abort one of the two. The rotation
    that was rolled back with ``leaked`` comes first of all, for it may have to move too. Raises
    ``rotation_in_progress`` where one started at this very moment.
    """
    if leaked is not None:
        left_over = Rotation.objects.filter(incoming=leaked, stage=Stage.ROLLED_BACK)
        list(left_over.select_for_update(of=("self",)).values_list("id"))
    open_id = Rotation.objects.open().filter(key=key).values_list("id", flat=True).first()
    rotation = engine.lock(open_id) if open_id is not None else None
    key = rotation.key if rotation is not None else key_services.lock_key(key.id)
    if rotation is not None and rotation.is_open:
        return rotation, key
    starting.refuse_second(key)
    return None, key


def act(
    actor: Actor,
    key: Key,
    leaked: KeyVersion,
    rotation: Rotation | None,
    *,
    mode: str,
    reason: str,
    now: datetime,
    ring: engine.Ring | None = None,
) -> Done:
    """Do what ``way_of`` says, on a key and its open rotation from ``lock_open``."""
    way = way_of(key, leaked, rotation)
    # The copy of the row that the rotation saves again.
    leaked = next((own for own in _versions(rotation) if own.id == leaked.id), leaked)
    leaked.key = key
    if way is Way.NOTHING:
        return Done(way, None)
    key_services.mark_compromised(actor, key, leaked, reason=reason, now=now)
    if rotation is None or way is Way.REVOKE:
        rotation = _new(actor, key, reason, now) if way is Way.START else _left_over(leaked)
        if way is Way.START and mode == "kill":
            _kill(rotation, Side.OUTGOING, now, ring)
        rotation.save()
        return Done(way, engine.advance_locked(rotation, now, ring=ring))
    if way is Way.ROLL_BACK:
        _go_back(rotation, actor, reason, now)
        if rotation.outgoing is not None and rotation.outgoing.compromised_at is not None:
            _queue(actor, key, rotation.outgoing, mode=mode, reason=reason, now=now)
    elif not _nothing_new(rotation, leaked, way, mode):
        _hurry(rotation, actor, reason, now)
        text = f"emergency: {reason}"
        engine.event(rotation, "advanced", reason=text, now=now, actor=actor, stage=str(rotation.stage))
        if mode == "kill":
            _kill(rotation, Side.OUTGOING if leaked.id == rotation.outgoing_id else Side.INCOMING, now, ring)
    rotation.save()
    return Done(way, engine.advance_locked(rotation, now, ring=ring))


def _versions(rotation: Rotation | None) -> list[KeyVersion]:
    both = (rotation.incoming, rotation.outgoing) if rotation is not None else ()
    return [version for version in both if version is not None]


def _new(actor: Actor, key: Key, reason: str, now: datetime) -> Rotation:
    value = _policy(key)
    made = starting.create(actor, key, EMERGENCY, value, reason=reason, trigger="emergency", now=now)
    return engine.lock(made.id)


def with_one_key(keys: Collection[Key]) -> set[uuid.UUID]:
    """Of these keys those beside which no second one can exist: by their provider, or by their policy."""
    narrow = {key.id for key in keys if one_key_only(key.service.provider)}
    followed = KeySchedule.objects.filter(key__in=[key.id for key in keys], policy__document__cutover=True)
    return narrow | set(followed.values_list("key_id", flat=True))


def _policy(key: Key) -> Policy:
    """The emergency policy; for a provider of one key the leaked one ends first."""
    value = RotationPolicy.objects.get(slug=EMERGENCY).value
    return replace(value, cutover=key.id in with_one_key([key]))


def _left_over(leaked: KeyVersion) -> Rotation:
    """The rotation that was rolled back and still has this version to revoke: now, not after its cool-off."""
    rotation = Rotation.objects.filter(incoming=leaked, stage=Stage.ROLLED_BACK).first()
    if rotation is None:
        raise KeyturnError("invalid_transition", "No rotation knows how to revoke this version.")
    rotation = engine.lock(rotation.id)
    _skip_cool_off(rotation)
    rotation.check_at = rotation.finished_at
    return rotation


def _skip_cool_off(rotation: Rotation) -> None:
    rotation.policy = to_json(replace(from_json(rotation.policy), cool_off=timedelta(0)))


def _go_back(rotation: Rotation, actor: Actor, reason: str, now: datetime) -> None:
    if rotation.abort_asked_at is None:
        rotation.abort_asked_at = now
        engine.event(rotation, "abort:asked", reason=f"emergency: {reason}", now=now, actor=actor)
    _clear_attention(rotation, actor, reason, now)
    _skip_cool_off(rotation)


def _clear_attention(rotation: Rotation, actor: Actor, reason: str, now: datetime) -> None:
    if rotation.attention:
        code, rotation.attention, rotation.attention_reason = rotation.attention, "", ""
        rotation.attention_verbs = []
        text = f"emergency: {reason}"
        engine.event(rotation, "attention:cleared", reason=text, now=now, actor=actor, code=code)


def _nothing_new(rotation: Rotation, leaked: KeyVersion, way: Way, mode: str) -> bool:
    """Whether an earlier emergency did all that this one would do; also where an abort has to end first."""
    if way is Way.WAIT and rotation.abort_asked_at is not None:
        return True
    hurried = rotation.policy_slug == EMERGENCY and rotation.abort_asked_at is None
    return hurried and (mode == "replace" or leaked.withheld_at is not None)


def _hurry(rotation: Rotation, actor: Actor, reason: str, now: datetime) -> None:
    """Go on under the emergency policy: straight to everybody, no monitoring."""
    gap = from_json(rotation.policy).cutover
    policy = _policy(rotation.key)
    policy = replace(policy, cutover=policy.cutover or gap)
    rotation.policy, rotation.policy_slug = to_json(policy), EMERGENCY
    rotation.step, rotation.step_entered_at = 0, now
    rotation.deadline_at = now + policy.deadline
    if rotation.paused:
        rotation.paused = False
        engine.event(rotation, "resumed", reason=f"emergency: {reason}", now=now, actor=actor)
    rotation.check_at = now
    if rotation.abort_asked_at is not None:
        rotation.abort_asked_at = None
        Operation.objects.filter(rotation=rotation, kind=Kind.ISSUE, outcome="aborted").update(
            superseded=True
        )
    if rotation.attention and rotation.attention not in ("supply_key", "replace_key", "confirm_revoked"):
        _clear_attention(rotation, actor, reason, now)
        failed = Operation.objects.filter(rotation=rotation, state=OperationState.FAILED)
        failed.update(superseded=True)  # what stood before a person is tried again


def _kill(rotation: Rotation, side: Side, now: datetime, ring: engine.Ring | None) -> None:
    """Withhold the leaked version and ask for its revoke before anything else."""
    version = rotation.outgoing if side is Side.OUTGOING else rotation.incoming
    if version is None:
        return
    key_services.withhold(version, now=now)
    rotation.no_fallback = True
    if side is Side.INCOMING:
        rotation.force_asked_at = rotation.force_asked_at or now  # nothing is gained by monitoring it
    asked = Operation.objects.filter(rotation=rotation, kind=Kind.REVOKE, side=side, superseded=False)
    if version.state in _HONOURED and not asked.exclude(state=OperationState.FAILED).exists():
        engine.ask(rotation, Kind.REVOKE, side, now, ring=ring)


# Waiting -------------------------------------------------------------------------------------------


def _queue(
    actor: Actor, key: Key, leaked: KeyVersion, *, mode: str, reason: str, now: datetime
) -> EmergencyRun:
    """Replace this version as soon as the open rotation is over: the scheduler looks at it in every beat."""
    waiting = EmergencyItem.objects.filter(
        key=key, version=leaked, state=EmergencyItem.WAITING, run__state=EmergencyRun.RUNNING
    ).first()
    if waiting is not None:
        return waiting.run
    run = EmergencyRun.objects.create(
        scope="key",
        subject=str(key),
        mode=mode,
        reason=reason,
        requested_by=actor.name,
        user_id=actor.user_id,
        created_at=now,
    )
    EmergencyItem.objects.create(run=run, key=key, version=leaked, position=1, due_at=now)
    return run


# Who would suffer ----------------------------------------------------------------------------------


def is_last(key: Key, leaked: KeyVersion) -> bool:
    """Whether consumers get nothing of this key while this version is withheld."""
    labelled = [version for version in (key.current, key.pending, key.previous) if version is not None]
    others = [version for version in labelled if version.id != leaked.id]
    return leaked in labelled and not any(
        version.state == State.ACTIVE and version.withheld_at is None for version in others
    )


def instances_of(key: Key, leaked: KeyVersion, now: datetime) -> list[str]:
    """The instances that were given this version in the last 24 hours, as ``consumer/instance``."""
    given = readers.last_given(key.id, now - SEEN_SPAN).get(leaked.id, {})
    return sorted("/".join(place) for place in given)


def open_jobs_of(leaked: KeyVersion) -> int:
    """Jobs that instances opened under this version and have not closed."""
    return sum(max(0, row[4]) for row in jobs.open_jobs_of([leaked.id]))


def _unconfirmed(key: Key, leaked: KeyVersion, now: datetime) -> KeyturnError:
    instances, open_jobs = instances_of(key, leaked, now), open_jobs_of(leaked)
    return KeyturnError(
        "precondition_failed",
        f"No other version answers for {key}: {len(instances)} instance(s) with {open_jobs} open job(s) get"
        " none until a new one is there. Type the name of the key to confirm.",
        extra={"confirm": str(key), "instances": instances, "open_jobs": open_jobs},
    )
