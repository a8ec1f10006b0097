"""Remind the owners of a consumer that still uses the outgoing version, on the channels of their team."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError
from keyvault.models import Consumer
from rotation import engine
from rotation.facts import Offender
from rotation.models import Rotation
from rotation.notice_rows import Channel, Notice
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import put
from rotation.observe import observe


def of_consumer(offenders: tuple[Offender, ...], slug: str) -> list[Offender]:
    """Those that are instances of this consumer."""
    return [offender for offender in offenders if offender.who.partition("/")[0] == slug]


@transaction.atomic
def remind(actor: Actor, rotation_id: uuid.UUID, consumer: Consumer, *, now: datetime) -> int:
    """Tell the consumer's team which of its instances stand in the way; returns how many notices that makes.

    At most one an hour for a consumer; 0 also where its team has no channel. The owners hear of it, not only
    those of the key. Raises ``invalid_transition`` where none of its instances is in the way any more.
    """
    rotation = engine.lock(rotation_id)
    actor.demand("operate", rotation.key.service.team_id)
    mine = of_consumer(observe(rotation, now).offenders, consumer.slug)
    if not mine or rotation.outgoing is None:
        raise KeyturnError(
            "invalid_transition", f"No instance of {consumer.slug} stands in the way any more."
        )
    dedup = f"reminder:{rotation.id}:{consumer.slug}:{now.astimezone(UTC):%Y-%m-%dT%H}"
    channels = Channel.objects.hearing(consumer.team_id).filter(level="owner")
    if not channels.exists() or Notice.objects.filter(channel__in=channels, dedup=dedup).exists():
        return 0
    engine.event(
        rotation, "reminded", reason=f"asked the owners of {consumer.slug}", now=now, actor=actor,
        consumer=consumer.slug,
    )  # fmt: skip
    rotation.save(update_fields=["revision"])
    return put(
        channels,
        NoticeKind.REMINDER,
        _facts(rotation, mine, actor, now),
        dedup=dedup,
        sequence=audit.lock_chain().sequence,
        team_id=consumer.team_id,
        now=now,
    )


def _facts(rotation: Rotation, mine: list[Offender], actor: Actor, now: datetime) -> Facts:
    named = "; ".join(f"{offender.who} {offender.why}" for offender in mine[:5])
    more = f"; and {len(mine) - 5} more" if len(mine) > 5 else ""
    return Facts(
        at=now.astimezone(UTC).isoformat(timespec="seconds"),
        service=rotation.key.service.slug,
        environment=rotation.key.environment.slug,
        rotation=str(rotation.id),
        stage=str(rotation.stage),
        outgoing=rotation.outgoing.number if rotation.outgoing else None,
        incoming=rotation.incoming.number if rotation.incoming else None,
        reason=(named + more)[:500],
        who=actor.name,
    )
