"""Starting rotations: by a person, by the API, by schedule, as an emergency; and the plan before it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from keyvault.actors import SYSTEM, Actor
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, KeyVersion
from keyvault.services import keys as key_services
from rotation import engine
from rotation.facts import Kind, OperationState, Side
from rotation.models import KeySchedule, Operation, Rotation, RotationPolicy, RotationRecord
from rotation.plan import plan, split_salt
from rotation.plan import to_json as plan_to_json
from rotation.policy import Policy, to_json
from rotation.services.policies import policy_for
from rotation.services.verbs import in_progress

log = structlog.get_logger("keyturn.rotation")


@transaction.atomic
def start(
    actor: Actor,
    key: Key,
    *,
    policy: RotationPolicy | None = None,
    reason: str = "",
    trigger: str = "person",
    now: datetime,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Begin to replace the current version of a key. Without ``policy`` the key's own is used.

    Raises ``rotation_in_progress`` while another rotation of this key is open.
    """
    key = key_services.lock_key(key.id)
    actor.demand("operate", key.service.team_id)
    _refuse_second(key)
    chosen = policy or policy_for(key)
    rotation = _create(actor, key, chosen.slug, chosen.value, reason=reason, trigger=trigger, now=now)
    return engine.advance(rotation.id, now, ring=ring)


def _refuse_second(key: Key) -> None:
    other = Rotation.objects.open().filter(key=key).first()
    if other is not None:
        raise in_progress(other)


def _create(
    actor: Actor, key: Key, slug: str, policy: Policy, *, reason: str, trigger: str, now: datetime
) -> Rotation:
    planned = plan(key, policy, slug, now=now)
    rotation = Rotation(
        key=key,
        policy_slug=slug,
        policy=to_json(policy),
        trigger="first" if key.current is None else trigger,
        reason=reason,
        requested_by=actor.name,
        outgoing=key.current,
        salt=split_salt(key),  # as the plan told
        created_at=now,
        stage_entered_at=now,
        step_entered_at=now,
        deadline_at=now + policy.deadline,
        check_at=now,
    )
    rotation.save(force_insert=True)
    RotationRecord.objects.create(rotation=rotation, plan=plan_to_json(planned))
    engine.event(
        rotation, "started", reason=reason, now=now, actor=actor, policy=slug, trigger=rotation.trigger
    )
    return rotation


def start_due(now: datetime, *, ring: engine.Ring | None = None, limit: int = 500) -> list[uuid.UUID]:
    """Start what the schedule says is due; a key that is being rotated keeps its date until it is free."""
    due = KeySchedule.objects.filter(next_rotation_at__lte=now).order_by("next_rotation_at")
    started = []
    for schedule in due.select_related("key", "policy")[:limit]:
        # Compare-and-swap on the date: of two schedulers one goes on. The finish sets the next date.
        claimed = KeySchedule.objects.filter(
            pk=schedule.pk, next_rotation_at=schedule.next_rotation_at
        ).update(next_rotation_at=now + timedelta(hours=1))
        if not claimed:
            continue
        try:
            rotation = start(
                SYSTEM,
                schedule.key,
                policy=schedule.policy,
                trigger="schedule",
                reason="due",
                now=now,
                ring=ring,
            )
        except KeyturnError as error:
            log.info("due key not started", key=str(schedule.key_id), code=error.code)
            continue
        started.append(rotation.id)
    return started


# Emergency -----------------------------------------------------------------------------------------


@transaction.atomic
def emergency(
    actor: Actor,
    key: Key,
    *,
    mode: str,
    reason: str,
    now: datetime,
    ring: engine.Ring | None = None,
) -> Rotation:
    """The current secret is known to others.

    ``replace``: a new version takes over at once, then the leaked one is revoked. ``kill``: the leaked
    one is withheld and revoked first, and consumers get nothing until the new one is there.
    An open rotation that has not promoted yet is hurried along instead of starting a second one.
    """
    # The rotation before the key: crosswise with a tick, the database would abort one of the two.
    open_id = Rotation.objects.open().filter(key=key).values_list("id", flat=True).first()
    rotation = engine.lock(open_id) if open_id is not None else None
    key = rotation.key if rotation is not None else key_services.lock_key(key.id)
    actor.demand("manage", key.service.team_id)
    leaked = key.current
    if leaked is None:
        raise KeyturnError("no_active_version", "This key has no active version.")
    if rotation is not None and rotation.is_open:
        if rotation.outgoing is None or rotation.outgoing_id != leaked.id:
            raise in_progress(rotation)
        leaked = rotation.outgoing  # the copy of the row that is saved again below
    else:
        rotation = None
        _refuse_second(key)
    leaked.key = key
    key_services.mark_compromised(actor, key, leaked, reason=reason, now=now)
    policy = RotationPolicy.objects.get(slug="emergency")
    if rotation is None:
        rotation = _create(actor, key, policy.slug, policy.value, reason=reason, trigger="emergency", now=now)
        rotation = engine.lock(rotation.id)
    else:
        _hurry(rotation, policy, now)
        engine.event(
            rotation, "advanced", reason=f"emergency: {reason}", now=now, actor=actor, stage=rotation.stage
        )
    if mode == "kill":
        _kill(rotation, now, ring)
    rotation.save()
    return engine.advance(rotation.id, now, ring=ring)


def _hurry(rotation: Rotation, policy: RotationPolicy, now: datetime) -> None:
    """Go on under the emergency policy: straight to everybody, no monitoring."""
    rotation.policy, rotation.policy_slug = to_json(policy.value), policy.slug
    rotation.step, rotation.step_entered_at = 0, now
    rotation.deadline_at = now + policy.value.deadline
    rotation.paused = False
    if rotation.attention not in ("supply_key", "confirm_revoked"):
        rotation.attention = rotation.attention_reason = ""
        rotation.attention_verbs = []


def _kill(rotation: Rotation, now: datetime, ring: engine.Ring | None) -> None:
    outgoing = rotation.outgoing
    if outgoing is None:
        return
    key_services.withhold(outgoing, now=now)
    rotation.no_fallback = True
    asked = Operation.objects.filter(
        rotation=rotation, kind=Kind.REVOKE, side=Side.OUTGOING, superseded=False
    )
    if not asked.exclude(state=OperationState.FAILED).exists():
        engine.ask(rotation, Kind.REVOKE, Side.OUTGOING, now, ring=ring)


def blast_radius(actor: Actor, keys: Iterable[Key]) -> list[dict[str, Any]]:
    """What an emergency would touch, most urgent first: production before staging before development."""
    found = []
    for key in sorted(keys, key=lambda k: (-k.environment.position, k.service.slug)):
        open_rotation = Rotation.objects.open().filter(key=key).first()
        found.append(
            {
                "service": key.service.slug,
                "environment": key.environment.slug,
                "version": key.current.number if key.current else None,
                "rotation": str(open_rotation.id) if open_rotation else None,
                "allowed": actor.may("manage", key.service.team_id),
            }
        )
    return found


def keys_of_leak(actor: Actor, mark: str) -> list[Key]:
    """The keys, among those the actor may know of, that hold the secret with this fingerprint."""
    held = KeyVersion.objects.filter(fingerprint=mark, state__in=[State.ACTIVE, State.DISABLED])
    return list(
        Key.objects.for_actor(actor)
        .filter(id__in=held.values("key_id"))
        .select_related("service__provider", "environment", "current")
    )
