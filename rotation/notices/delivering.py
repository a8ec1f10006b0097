"""From row to receiver: claim the channel, send what is first in its line, settle. No lock while sending.

One worker at a time has a channel, so notices arrive in order; a worker that dies leaves a lease that runs
out, and what it was sending is sent again under the same id. A message that waits for its day does not hold
up one that cannot wait.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet

from rotation.notice_rows import Channel, Notice
from rotation.notices.pacing import GIVE_UP, backoff
from rotation.notices.senders import Sent, send

log = structlog.get_logger("keyturn.notices")

LEASE = timedelta(seconds=90)  # longer than a call or a mail may take
MOST_AT_ONCE = 5  # more than these that wait for the same reader become one message
MOST_IN_ONE = 100
KEPT = timedelta(days=30)


def due_channels(now: datetime, *, limit: int = 500) -> list[uuid.UUID]:
    """The channels that have something to send now."""
    due = Notice.objects.filter(state="pending", next_at__lte=now, channel__enabled=True)
    free = due.filter(_free(now, "channel__"))
    return list(free.order_by().values_list("channel_id", flat=True).distinct()[:limit])


def _free(now: datetime, prefix: str = "") -> Q:
    idle = Q(**{f"{prefix}lease_until__isnull": True}) | Q(**{f"{prefix}lease_until__lte": now})
    return idle & (Q(**{f"{prefix}wait_until__isnull": True}) | Q(**{f"{prefix}wait_until__lte": now}))


def step(channel_id: uuid.UUID, now: datetime) -> bool:
    """Send what is first in line on this channel. False: nothing was due, or somebody else is at it."""
    channel = claim(channel_id, now)
    if channel is None:
        return False
    batch = _first_in_line(channel, now)
    if not batch:
        _mine(channel).update(lease_until=None)
        return False
    # Counted before the try: one that kills its worker every time is given up like any other.
    Notice.objects.filter(pk__in=[notice.pk for notice in batch]).update(tries=F("tries") + 1)
    return settle(channel, batch, send(channel, batch, now), now)


def claim(channel_id: uuid.UUID, now: datetime) -> Channel | None:
    """Take the channel for the length of a lease; None where it is taken, waits or is switched off."""
    free = Channel.objects.filter(_free(now), pk=channel_id, enabled=True)
    if not free.update(fence=F("fence") + 1, lease_until=now + LEASE):
        return None
    return Channel.objects.get(pk=channel_id)


def _mine(channel: Channel) -> QuerySet[Channel]:
    return Channel.objects.filter(pk=channel.pk, fence=channel.fence)


def _first_in_line(channel: Channel, now: datetime) -> list[Notice]:
    _give_up(channel, now)
    due = Notice.objects.filter(channel=channel, state="pending", next_at__lte=now)
    head = due.order_by("digest", "sequence", "created_at", "id").first()
    if head is None or channel.kind == "webhook":
        return [head] if head is not None else []
    line = due.filter(recipient=head.recipient, digest=head.digest)
    batch = list(line.order_by("sequence", "created_at", "id")[:MOST_IN_ONE])
    return batch if head.digest or len(batch) > MOST_AT_ONCE else [head]


def _give_up(channel: Channel, now: datetime) -> None:
    """What was tried for a day is not tried any more, nor what waited for a day behind it."""
    late = Notice.objects.filter(channel=channel, state="pending", give_up_at__lte=now)
    if channel.failing_since is None or now - channel.failing_since < GIVE_UP:
        late = late.filter(tries__gt=0)
    message = f"given up: {channel.last_error or 'its worker died'}"[:500]
    given_up = late.update(state="failed", message=message, finished_at=now)
    if given_up:
        log.warning("notices given up", channel=channel.slug, count=given_up)


@transaction.atomic
def settle(channel: Channel, batch: Sequence[Notice], sent: Sent, now: datetime) -> bool:
    """Write what became of a try. A worker whose lease was taken away writes nothing: returns False."""
    row = Channel.objects.select_for_update(no_key=True).filter(pk=channel.pk, fence=channel.fence).first()
    if row is None:
        log.warning("stale notice", channel=channel.slug)
        return False
    row.lease_until = row.wait_until = None
    tried = Notice.objects.filter(pk__in=[notice.pk for notice in batch], state="pending")
    if sent.outcome == "sent":
        row.last_ok_at, row.failing_since, row.last_error = now, None, ""
        tried.update(state="sent", finished_at=now, message="")
    else:
        row.failing_since = row.failing_since or now
        row.last_error = sent.message[:500]
    if sent.outcome == "again":
        tries = max(notice.tries for notice in batch) + 1
        row.wait_until = now + backoff(tries, sent.retry_after)
        tried.update(message=row.last_error)
    elif sent.outcome in ("refused", "off"):
        tried.update(state="failed", finished_at=now, message=row.last_error)
    if sent.outcome == "off":
        row.enabled = False
        drop_pending(row, now)
    row.save()
    return True


def drop_pending(channel: Channel, now: datetime) -> None:
    """What still waits on a channel that was switched off is never sent."""
    pending = Notice.objects.filter(channel=channel, state="pending")
    pending.update(state="dropped", finished_at=now, message="the channel was switched off")


def prune(now: datetime, *, limit: int = 1000) -> int:
    """Forget what was told a month ago; returns how many."""
    old = Notice.objects.filter(finished_at__lte=now - KEPT).order_by("finished_at")
    return Notice.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:limit])).delete()[0]
