"""Starting rotations: by a person, by the API, by schedule."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from django.db import transaction

from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Key
from keyvault.services import keys as key_services
from rotation import engine
from rotation.dates import EMERGENCY, rehearsal_missing
from rotation.models import Rotation, RotationPolicy, RotationRecord
from rotation.plan import no_room, plan, split_salt
from rotation.plan import to_json as plan_to_json
from rotation.planned import next_number, plan_digest
from rotation.policy import Policy, to_json
from rotation.services.policies import policy_for
from rotation.services.saying import in_progress


@transaction.atomic
def start(
    actor: Actor,
    key: Key,
    *,
    policy: RotationPolicy | None = None,
    reason: str = "",
    trigger: str = "person",
    digest: str = "",
    skip_rehearsal: bool = False,
    now: datetime,
    ring: engine.Ring | None = None,
) -> Rotation:
    """Begin to replace the current version of a key. Without ``policy`` the key's own is used.

    ``digest``: of the plan that was looked at; another one now is refused with ``precondition_failed``.
    A policy that is no cutover is refused (``invalid_transition``) where the provider allows one key only.
    ``skip_rehearsal``: start a protected environment without one. That takes the role lead and a reason, and
    somebody else has to approve the start, whatever the policy says.
    Raises ``rotation_in_progress`` while another rotation of this key is open, ``rehearsal_required``.
    """
    key = key_services.lock_key(key.id)
    actor.demand("operate", key.service.team_id)
    refuse_second(key)
    chosen = policy or policy_for(key)
    value = chosen.value
    narrow = no_room(key, value)
    if narrow:
        raise KeyturnError("invalid_transition", narrow)
    if digest and digest != plan_digest(key, key.current, next_number(key), value):
        raise KeyturnError("precondition_failed", "The plan has changed since you looked at it.")
    if chosen.slug != EMERGENCY and (lacking := rehearsal_missing(key, value, now)) is not None:
        if not skip_rehearsal:
            raise KeyturnError("rehearsal_required", lacking)
        value = _without_rehearsal(actor, key, value, reason)
    rotation = create(actor, key, chosen.slug, value, reason=reason, trigger=trigger, now=now)
    return engine.advance(rotation.id, now, ring=ring)


def _without_rehearsal(actor: Actor, key: Key, policy: Policy, reason: str) -> Policy:
    """The policy of a rotation that nobody has rehearsed: two people must want it."""
    actor.demand("manage", key.service.team_id)
    if not reason.strip():
        raise invalid("reason", "Say why it has to start without a rehearsal.")
    needed = max(policy.approvals.get("start", 0), 1)
    return replace(policy, rehearsal=None, approvals={**policy.approvals, "start": needed})


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
        requester_id=actor.user_id,
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
