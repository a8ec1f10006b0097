"""Versions that more people know than should: noticed, kept, and their keys' dates brought forward.

Custody knows nothing of rotations; what happened there stands in the audit chain. Its events are read in
their order, each becomes one row, and that row and the new date commit together: an event is neither lost
nor counted twice, by any number of schedulers.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, Key, KeyVersion, Membership, User
from keyvault.prepared import prepared
from keyvault.services import keys as key_services
from rotation.dates import due_of, told
from rotation.models import Exposure, KeySchedule, Rotation
from rotation.services.policies import policy_for

BATCH = 500
_CAUSES = {"key:revealed": "revealed", "key:version:compromised": "reported"}


def look(now: datetime) -> int:
    """Note what is new and bring dates forward; returns how many exposures were noted."""
    return _read_chain(now) + _who_left(now)


@prepared
def _last_read() -> QuerySet[Exposure, int | None]:
    read = Exposure.objects.filter(sequence__isnull=False).order_by("-sequence")
    return read.values_list("sequence", flat=True)[:1]


@prepared
def _events_after(sequence: int) -> QuerySet[AuditEvent]:
    events = AuditEvent.objects.filter(name__in=_CAUSES, sequence__gt=sequence)
    return events.order_by("sequence")[:BATCH]


def _read_chain(now: datetime) -> int:
    return sum(_note_event(event, now) for event in _events_after(_last_read.first() or 0))


@transaction.atomic
def _note_event(event: AuditEvent, now: datetime) -> bool:
    key = Key.objects.named(event.service, event.environment).get()
    key = key_services.lock_key(key.id)
    if Exposure.objects.filter(sequence=event.sequence).exists():
        return False  # another scheduler was here
    version = KeyVersion.objects.get(key=key, number=event.details["version"])
    exposure = Exposure.objects.create(
        key=key,
        version=version,
        cause=_CAUSES[event.name],
        who=event.actor if event.actor_kind == "user" else "",
        reason=event.reason,
        at=event.at,
        sequence=event.sequence,
    )
    _bring_forward(key, exposure, now)
    return True


@prepared
def _gone() -> QuerySet[Exposure]:
    """Those who revealed a version that is current still, and are not active or not in its team any more."""
    user = User.objects.filter(username=OuterRef("who"), is_active=True)
    member = Membership.objects.filter(user__username=OuterRef("who"), team=OuterRef("key__service__team"))
    known = Exposure.objects.filter(cause="member_left", version=OuterRef("version"), who=OuterRef("who"))
    gone = (
        Exposure.objects.filter(cause="revealed", version__current_of__isnull=False)
        .exclude(who="")
        .filter(~Exists(user) | (~Exists(member) & ~Exists(user.exclude(organisation_role=""))))
        .filter(~Exists(known))
    )
    return gone.order_by("at")[:BATCH]


def _who_left(now: datetime) -> int:
    return sum(_note_leaver(exposure, now) for exposure in _gone())


@transaction.atomic
def _note_leaver(revealed: Exposure, now: datetime) -> bool:
    key = key_services.lock_key(revealed.key_id)
    exposure, created = Exposure.objects.get_or_create(
        cause="member_left", version=revealed.version, who=revealed.who, defaults={"key": key, "at": now}
    )
    if created:
        _bring_forward(key, exposure, now)
    return created


def _bring_forward(key: Key, exposure: Exposure, now: datetime) -> None:
    """Move the date of a locked key to before its present one, where its policy says so.

    A version that is being replaced already needs no date: the end of its rotation looks at what is left.
    """
    if exposure.version_id != key.current_id or _being_replaced(exposure):
        return
    schedule = KeySchedule.objects.select_for_update().filter(key=key).first()
    if schedule is None:
        schedule = KeySchedule(key=key, policy=policy_for(key))
    due = due_of(key, schedule.policy.value, since=schedule.last_rotation_at or now)
    if due is None or due.trigger != exposure.cause:
        return
    if schedule.next_rotation_at is not None and schedule.next_rotation_at <= due.at:
        return
    schedule.next_rotation_at, schedule.trigger, schedule.reason = due.at, due.trigger, due.reason[:500]
    schedule.held_until, schedule.held_code, schedule.held_reason = None, "", ""
    schedule.save()
    audit.record(
        "schedule:brought-forward",
        actor=SYSTEM,
        now=now,
        key=key,
        reason=told(exposure),
        trigger=due.trigger,
        version=exposure.version.number,
        next_rotation_at=due.at.isoformat(),
    )


def _being_replaced(exposure: Exposure) -> bool:
    return Rotation.objects.open().filter(outgoing=exposure.version_id).exists()
