"""Tokens that are used after their end: revoked ones, and those whose successor has taken over.

Either somebody has kept a copy, or an instance was forgotten. Delivery refuses them from memory and tells
what it saw here, seldom and beside its answers.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, ConsumerToken

EVERY: Final = timedelta(hours=1)  # a token is told of once in this time, whoever uses it, how often ever
MOST: Final = 100  # tokens in this time; whoever has more dead tokens than this is known by then
EVENT: Final = "consumer:token:replayed"


@transaction.atomic
def record(token_id: uuid.UUID, *, address: str, now: datetime) -> bool:
    """Record that a dead token was used from this address; returns whether that was news.

    A token that lives, and one that has just run out without a successor, is none of our business.
    """
    token = (
        ConsumerToken.objects.select_for_update(of=("self",))
        .select_related("consumer__team", "environment")
        .filter(pk=token_id)
        .first()
    )
    ended = _ended(token, now) if token is not None else None
    if token is None or ended is None:
        return False
    lately = AuditEvent.objects.filter(name=EVENT, at__gt=now - EVERY)
    if audit.is_told(EVENT, str(token.id), since=now - EVERY) or lately.count() >= MOST:
        return False
    why, since = ended
    audit.record(
        EVENT,
        actor=SYSTEM,
        now=now,
        team_id=token.consumer.team_id,
        subject=str(token.id),
        consumer=token.consumer.slug,
        hint=token.hint,
        why=why,
        since=since.isoformat(),
        address=address,
    )
    return True


def _ended(token: ConsumerToken, now: datetime) -> tuple[str, datetime] | None:
    if token.revoked_at is not None:
        return "revoked", token.revoked_at
    if token.expires_at is None or token.expires_at > now:
        return None
    replaced = ConsumerToken.objects.filter(replaces=token).exists()
    return ("superseded", token.expires_at) if replaced else None
