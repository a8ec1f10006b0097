"""Instance limits: an instance that fetches with such a token takes one of its seats, and keeps it while it
comes back.

A token never has more rows here than its limit. A new one is only inserted under the token's lock, after
those whose time is over are gone; an instance that comes back in time only moves the time of its own row. Who
is first at a row decides: what was deleted cannot be kept, and what was kept is not deleted.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Count, QuerySet, Value
from django.db.models.functions import Greatest

from keyvault import audit, integrity
from keyvault.actors import SYSTEM
from keyvault.models import ConsumerToken, Seat

KEPT: Final = timedelta(hours=1)  # without a fetch; then the seat is free for another instance
NOTED: Final = timedelta(minutes=5)  # how often its row is moved, however often it fetches
EVERY: Final = timedelta(hours=1)  # a full token is told of once in this time
EVENT: Final = "consumer:token:crowded"


@transaction.atomic
def take(token_id: uuid.UUID, instance: str, *, address: str, now: datetime) -> bool:
    """Let the instance keep its seat, or give it a free one. False: there is none, which is recorded.

    Raises ``IntegrityError`` for a token that somebody changed.
    """
    seats = Seat.objects.filter(token_id=token_id)
    if _keep(seats, instance, now):
        return True
    locked = ConsumerToken.objects.select_for_update(of=("self",)).select_related("consumer")
    token = locked.filter(pk=token_id).first()
    if token is None:
        return False
    integrity.verify(token)
    seats.filter(last_at__lte=now - KEPT).delete()
    if _keep(seats, instance, now):
        return True  # another process was faster
    if token.instance_limit is not None and seats.count() >= token.instance_limit:
        _record(token, instance, address, now)
        return False
    Seat.objects.create(token=token, instance=instance, last_at=now)
    return True


def taken(token_ids: list[uuid.UUID], now: datetime) -> dict[uuid.UUID, int]:
    """How many seats of each of these tokens are taken."""
    held = Seat.objects.filter(token_id__in=token_ids, last_at__gt=now - KEPT)
    return dict(held.values_list("token_id").annotate(Count("pk")))


def _keep(seats: QuerySet[Seat], instance: str, now: datetime) -> bool:
    """Also one whose time is over, as long as nobody has come for it."""
    mine = seats.filter(instance=instance)
    return mine.update(last_at=Greatest("last_at", Value(now))) == 1


def _record(token: ConsumerToken, instance: str, address: str, now: datetime) -> None:
    """Once in a while: whoever is refused asks again."""
    if audit.is_told(EVENT, str(token.id), since=now - EVERY):
        return
    audit.record(
        EVENT,
        actor=SYSTEM,
        now=now,
        team_id=token.consumer.team_id,
        subject=str(token.id),
        consumer=token.consumer.slug,
        hint=token.hint,
        limit=token.instance_limit,
        instance=instance,
        address=address,
    )
