"""When the provider lets a secret end: written down later or corrected, and the date that follows."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from keyvault.services import keys as key_services
from rotation.dates import due_of
from rotation.models import KeySchedule
from rotation.services.policies import policy_for


@transaction.atomic
def set_expiry(actor: Actor, key: Key, expires_at: datetime | None, *, now: datetime) -> Key:
    """Set or take away (None) the end of the current version. Needs the role lead.

    Its next rotation comes early enough; a date that only the old end had set gives way. Raises
    ``validation_error`` for an end in the past, ``no_active_version``.
    """
    key = key_services.lock_key(key.id)
    actor.demand("manage", key.service.team_id)
    if key.current is None:
        raise KeyturnError("no_active_version", "This key has no version that could expire.")
    if key.current.expires_at != expires_at:
        key_services.set_expiry(actor, key, key.current, expires_at, now=now)
        _move_date(key, now)
    return key


def _move_date(key: Key, now: datetime) -> None:
    schedule = KeySchedule.objects.select_for_update().filter(key=key).first()
    if schedule is None:
        schedule = KeySchedule(key=key, policy=policy_for(key))
    began = key.current.activated_at if key.current is not None else None
    due = due_of(key, schedule.policy.value, since=schedule.last_rotation_at or began or now)
    sooner = due is not None and (schedule.next_rotation_at is None or due.at < schedule.next_rotation_at)
    if not sooner and schedule.trigger != "expiry":
        return
    schedule.next_rotation_at = due.at if due is not None else None
    schedule.trigger, schedule.reason = (due.trigger, due.reason[:500]) if due else ("schedule", "")
    schedule.held_until, schedule.held_code, schedule.held_reason = None, "", ""
    schedule.save()
