"""The one writer of notices. It runs in the transaction of what it tells, reads little and calls nobody.

``note`` is called by the engine for every line of a rotation's timeline; most lines interest nobody outside
and cost nothing. A notice stores facts, not words: what could go wrong while they are put into words must not
undo a rotation's step.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from rotation.models import Rotation
from rotation.notice_rows import LEVELS, Channel, Incident, Notice
from rotation.notices import incidents
from rotation.notices.kinds import CAN_WAIT, FOR_ALL, Facts, NoticeKind, kind_of
from rotation.notices.pacing import GIVE_UP, next_digest
from rotation.notices.people import recipients

# How a channel with something to send is announced after commit.
Ring = Callable[[uuid.UUID], None]


def _no_bell(channel_id: uuid.UUID) -> None:
    """Without a broker the next tick finds what is due."""


_bell: Ring = _no_bell


def hang_bell(ring: Ring) -> None:
    """How channels are announced. Set once, when the app is ready."""
    global _bell
    _bell = ring


def note(
    rotation: Rotation,
    name: str,
    *,
    actor: Actor,
    reason: str,
    code: str = "",
    sequence: int,
    now: datetime,
) -> None:
    """Tell what has just happened to a rotation that the caller has locked.

    ``sequence`` is that of the audit event of the same change. ``code``: of the attention. A line of a
    person's also ends the escalation of what that person was called for.
    """
    if name in incidents.ENDINGS or actor.kind == "user":
        incidents.close(rotation.id, actor.name, now)
    incident = _incident(rotation, name, code, now)
    kind = kind_of(
        name,
        trigger=rotation.trigger,
        code=incident.code if incident is not None else code,
        stage=str(rotation.stage),
        reason=reason,
    )
    if kind is None:
        return
    facts = _facts(rotation, kind, reason if actor.kind == "system" else "", incident, now)
    dedup = f"event:{sequence}"
    if name == "approval:wanted":
        dedup = f"approval:{rotation.id}:{rotation.waiting_code}:{now:%Y-%m-%d}"
    elif name == "escalated" and incident is not None:
        dedup = incidents.dedup_of(incident)
    channels = _hearing(rotation.key.service.team_id, kind, incident if name == "escalated" else None, now)
    put(channels, kind, facts, dedup=dedup, sequence=sequence, team_id=rotation.key.service.team_id, now=now)


def _incident(rotation: Rotation, name: str, code: str, now: datetime) -> Incident | None:
    team_id = rotation.key.service.team_id
    if name == "attention":
        return incidents.begin(rotation.id, team_id, code, now)
    if name == "late":
        return incidents.begin(rotation.id, team_id, "late", now)
    if name not in ("stands", "escalated"):
        return None
    incident = Incident.objects.filter(rotation=rotation, closed_at__isnull=True).first()
    if incident is not None and name == "stands":
        incidents.announce(incident, team_id, now)
    return incident


def _facts(
    rotation: Rotation, kind: NoticeKind, reason: str, incident: Incident | None, now: datetime
) -> Facts:
    standing = kind is NoticeKind.STANDS
    code = rotation.waiting_code or rotation.verdict_code if standing else rotation.attention
    why = rotation.attention_reason or rotation.waiting_for if incident is not None else reason
    return Facts(
        at=iso(now),
        service=rotation.key.service.slug,
        environment=rotation.key.environment.slug,
        rotation=str(rotation.id),
        stage=str(rotation.stage),
        outgoing=rotation.outgoing.number if rotation.outgoing is not None else None,
        incoming=rotation.incoming.number if rotation.incoming is not None else None,
        code=code,
        reason=(why or reason).rstrip("."),
        who=rotation.requested_by,
        level=incident.level if incident is not None else "",
        since=iso(incident.opened_at) if incident is not None else "",
        verbs=tuple(rotation.attention_verbs),
    )


def iso(moment: datetime) -> str:
    """As notices write a moment: in UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _hearing(
    team_id: uuid.UUID, kind: NoticeKind, escalated: Incident | None, now: datetime
) -> Iterable[Channel]:
    if escalated is not None:
        return [c for c in incidents.untold(escalated, team_id) if c.due_for(escalated.opened_at) <= now]
    rows = Channel.objects.hearing(team_id)
    return rows if kind in FOR_ALL else rows.filter(level=LEVELS[0])


def put(
    channels: Iterable[Channel],
    kind: NoticeKind,
    facts: Facts,
    *,
    dedup: str,
    sequence: int,
    team_id: uuid.UUID | None,
    now: datetime,
    to: str = "",
) -> int:
    """One notice for each channel (for mail, each recipient), and a ring after the commit. Returns how many.

    ``to``: the mail address of the one person whom it concerns. What a channel has under the same ``dedup``
    already is not written again.
    """
    rows = []
    for channel in channels:
        digest = bool(channel.digest_at) and kind in CAN_WAIT
        due = next_digest(now, channel.digest_at, channel.zone) if digest else now
        mail = channel.kind == "mail"
        found = [to] if to else recipients(channel, kind, team_id, facts.who) if mail else [""]
        for recipient in found:
            rows.append(
                Notice(
                    channel=channel,
                    recipient=recipient,
                    sequence=sequence,
                    dedup=dedup,
                    kind=kind.value,
                    facts=facts.to_json(),
                    digest=digest,
                    created_at=now,
                    next_at=due,
                    give_up_at=due + GIVE_UP,
                )
            )
    if rows:
        Notice.objects.bulk_create(rows, ignore_conflicts=True)
        for channel_id in dict.fromkeys(row.channel_id for row in rows if not row.digest):
            transaction.on_commit(lambda channel_id=channel_id: _bell(channel_id), robust=True)  # type: ignore[misc]
    return len(rows)


def tell(
    channels: Iterable[Channel],
    kind: NoticeKind,
    facts: Facts,
    *,
    dedup: str,
    team_id: uuid.UUID | None,
    now: datetime,
) -> int:
    """``put`` for what is no rotation's event, in a transaction of its own or the caller's."""
    with transaction.atomic():
        # Its lock puts this notice in one line with those of all events.
        sequence = audit.lock_chain().sequence
        return put(channels, kind, facts, dedup=dedup, sequence=sequence, team_id=team_id, now=now)
