"""What the beat does about notices: find trouble that lasts, tell the next level, ring for what is due."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef

from keyvault.domain import State
from keyvault.models import KeyVersion
from keyvault.services import beats
from rotation import engine
from rotation.models import STANDING, Rotation
from rotation.notice_rows import LEVELS, Channel, Incident
from rotation.notices import incidents
from rotation.notices.delivering import due_channels, prune, step
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import Ring, iso, tell
from rotation.services import reviews
from rotation.services.announcing import tell_stuck
from rotation.services.expiring import tell_expiring_tokens

log = structlog.get_logger("keyturn.notices")

BATCH = 500
PATIENCE = timedelta(minutes=30)  # a rotation may stand still for so long before anybody is told
EXPIRY_DAYS = (14, 3, 1)
EXPIRY_EVERY = timedelta(hours=1)
_EXPIRY_MARK = "expiry-notices"


def tick(now: datetime, *, ring: Ring) -> int:
    """One beat; returns how many channels have something to send. Nothing here moves a rotation."""
    for work in (
        watch,
        escalate,
        reviews.tell_overdue,
        tell_stuck,
        tell_expiring,
        tell_expiring_tokens,
        prune,
    ):
        try:
            work(now)
        except Exception:
            # What the others tell must not wait for this one; the next beat tries it again.
            log.exception("notices: a part of the beat failed", part=work.__name__)
    channels = due_channels(now)
    for channel_id in channels:
        ring(channel_id)
    return len(channels)


def deliver_due(clock: Callable[[], datetime], *, most: int = 1000) -> int:
    """Send in this process what is due, for commands on a machine without workers; returns the tries."""
    tries = 0
    for channel_id in due_channels(clock()):
        while tries < most and step(channel_id, clock()):
            tries += 1
    return tries


# Trouble that lasts --------------------------------------------------------------------------------


def watch(now: datetime) -> None:
    """1. Begin to watch what stands still. 2. Forget what moves again. 3. Call the owners of what is late."""
    open_incident = Incident.objects.filter(rotation=OuterRef("pk"), closed_at__isnull=True)
    standing = Rotation.objects.filter(STANDING, attention="", paused=False, finished_at__isnull=True)
    fresh = standing.exclude(Exists(open_incident)).values_list("id", flat=True)[:BATCH]
    Incident.objects.bulk_create(
        [
            Incident(rotation_id=rotation_id, code="stands", opened_at=now, next_at=now + PATIENCE)
            for rotation_id in fresh
        ],
        ignore_conflicts=True,
    )
    moving = Incident.objects.filter(code="stands", closed_at__isnull=True)
    moving.exclude(rotation__in=standing).update(closed_at=now, closed_by="keyturn", next_at=None)
    told = Incident.objects.filter(
        rotation=OuterRef("pk"), code="late", opened_at__gte=OuterRef("deadline_at")
    )
    late = Rotation.objects.filter(finished_at__isnull=True, attention="", deadline_at__lte=now)
    for rotation_id in late.exclude(Exists(told)).values_list("id", flat=True)[:BATCH]:
        _note_late(rotation_id, now)


@transaction.atomic
def _note_late(rotation_id: uuid.UUID, now: datetime) -> None:
    rotation = engine.lock(rotation_id)
    if rotation.is_open and not rotation.attention and rotation.deadline_at <= now:
        why = f"it waits for {rotation.waiting_for}" if rotation.waiting_for else "it is past its deadline"
        engine.event(rotation, "late", reason="paused" if rotation.paused else why, now=now)
        rotation.save(update_fields=["revision"])


def escalate(now: datetime) -> None:
    """Every incident whose time has come goes to whoever has not heard of it yet."""
    due = Incident.objects.filter(next_at__lte=now).order_by("next_at")
    for incident_id, rotation_id in due.values_list("id", "rotation_id")[:BATCH]:
        _raise(incident_id, rotation_id, now)


@transaction.atomic
def _raise(incident_id: uuid.UUID, rotation_id: uuid.UUID, now: datetime) -> None:
    rotation = engine.lock(rotation_id)
    incident = Incident.objects.filter(pk=incident_id, closed_at__isnull=True, next_at__lte=now).first()
    if incident is None:
        return  # somebody acted meanwhile
    reason = rotation.attention_reason or rotation.waiting_for or rotation.verdict_reason
    if not incident.level:
        engine.event(
            rotation, "stands", reason=reason, now=now, code=rotation.waiting_code or rotation.verdict_code
        )
    else:
        _tell_next(rotation, incident, reason, now)
    rotation.save(update_fields=["revision"])


def _tell_next(rotation: Rotation, incident: Incident, reason: str, now: datetime) -> None:
    waiting = incidents.untold(incident, rotation.key.service.team_id)
    due = [channel for channel in waiting if channel.due_for(incident.opened_at) <= now]
    later = [moment for channel in waiting if (moment := channel.due_for(incident.opened_at)) > now]
    incident.next_at = min(later, default=None)
    if due:
        incident.level = max(incident.level, incidents.highest(due), key=LEVELS.index)
    incident.save(update_fields=["level", "next_at"])
    if due:
        level = incidents.highest(due)
        engine.event(rotation, "escalated", reason=reason, now=now, level=level, code=incident.code)


# What no rotation tells ----------------------------------------------------------------------------


def tell_expiring(now: datetime) -> None:
    """Current versions that expire within two weeks: once at 14, 3 and 1 day(s). Looked for once an hour."""
    if not beats.claim(_EXPIRY_MARK, every=EXPIRY_EVERY, now=now):
        return
    soon = KeyVersion.objects.filter(
        current_of__isnull=False,
        state=State.ACTIVE,
        expires_at__gt=now,
        expires_at__lte=now + timedelta(days=EXPIRY_DAYS[0]),
    )
    for version in soon.select_related("key__service", "key__environment").order_by(F("expires_at"))[:BATCH]:
        _tell_expiring(version, now)


def _tell_expiring(version: KeyVersion, now: datetime) -> None:
    if version.expires_at is None:
        return
    days = min(days for days in EXPIRY_DAYS if version.expires_at - now <= timedelta(days=days))
    key = version.key
    facts = Facts(
        at=iso(now),
        service=key.service.slug,
        environment=key.environment.slug,
        outgoing=version.number,
        since=iso(version.expires_at),
    )
    channels = Channel.objects.hearing(key.service.team_id)
    if days > 1:
        channels = channels.filter(level=LEVELS[0])
    dedup = f"expiring:{version.id}:{days}"
    tell(channels, NoticeKind.EXPIRING, facts, dedup=dedup, team_id=key.service.team_id, now=now)


def tell_beat_dead(last: datetime, now: datetime) -> None:
    """Whoever sees that the scheduler is not running calls this; the organisation is told once."""
    channels = Channel.objects.of_organisation()
    dedup = f"beat:{iso(last)}"
    unaware = list(channels.exclude(notices__dedup=dedup))
    if unaware:
        facts = Facts(at=iso(now), since=iso(last))
        tell(unaware, NoticeKind.BEAT_DEAD, facts, dedup=dedup, team_id=None, now=now)
