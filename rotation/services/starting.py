"""Starting rotations: by a person, by the API, by schedule."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from keyvault.actors import SYSTEM, Actor
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from keyvault.services import keys as key_services
from rotation import engine
from rotation.models import KeySchedule, Rotation, RotationPolicy, RotationRecord
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
    refuse_second(key)
    chosen = policy or policy_for(key)
    rotation = create(actor, key, chosen.slug, chosen.value, reason=reason, trigger=trigger, now=now)
    return engine.advance(rotation.id, now, ring=ring)


def refuse_second(key: Key) -> None:
    """Raise ``rotation_in_progress`` where a rotation of this locked key is open."""
    other = Rotation.objects.open().filter(key=key).first()
    if other is not None:
        raise in_progress(other)


def create(
    actor: Actor, key: Key, slug: str, policy: Policy, *, reason: str, trigger: str, now: datetime
) -> Rotation:
    """The row and the first line of its timeline, for a locked key without an open rotation."""
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
