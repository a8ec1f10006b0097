"""Tokens that end soon: told to the team of the consumer, or to the person whose token it is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Exists, OuterRef

from keyvault import audit
from keyvault.models import ConsumerToken, UserToken
from keyvault.services import beats
from rotation.notice_rows import LEVELS, Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, tell
from rotation.services.personal import mail

DAYS: Final = (14, 3)
EVERY: Final = timedelta(hours=1)
_MARK: Final = "token-expiry-notices"
_BATCH: Final = 500


def tell_expiring_tokens(now: datetime) -> None:
    """Tokens that end within two weeks, and have no successor: once at 14 and at 3 days. Once an hour."""
    if not beats.claim(_MARK, every=EVERY, now=now):
        return
    soon = {"revoked_at": None, "expires_at__gt": now, "expires_at__lte": now + timedelta(days=DAYS[0])}
    replaced = ConsumerToken.objects.filter(replaces=OuterRef("pk"), revoked_at=None)
    ending = ConsumerToken.objects.filter(**soon).exclude(Exists(replaced)).select_related("consumer")
    for token in ending.order_by("expires_at")[:_BATCH]:
        _tell_team(token, now)
    own = UserToken.objects.filter(**soon, user__is_active=True).exclude(user__email="")
    for row in own.select_related("user").order_by("expires_at")[:_BATCH]:
        _tell_owner(row, now)


def step_of(created_at: datetime, expires_at: datetime, now: datetime) -> int | None:
    """14 or 3, the days within which it ends; None for a token that was never meant to live longer."""
    days = min((days for days in DAYS if expires_at - now <= timedelta(days=days)), default=None)
    return days if days is not None and expires_at - created_at > timedelta(days=days) else None


def _tell_team(token: ConsumerToken, now: datetime) -> None:
    if token.expires_at is None or (days := step_of(token.created_at, token.expires_at, now)) is None:
        return
    consumer = token.consumer
    facts = Facts(at=iso(now), consumer=consumer.slug, token=token.hint, since=iso(token.expires_at))
    channels = Channel.objects.hearing(consumer.team_id).filter(level=LEVELS[0])
    dedup = f"token-expiring:{token.id}:{days}"
    tell(channels, NoticeKind.TOKEN_EXPIRING, facts, dedup=dedup, team_id=consumer.team_id, now=now)


@transaction.atomic
def _tell_owner(row: UserToken, now: datetime) -> None:
    days = step_of(row.created_at, row.expires_at, now)
    if days is None:
        return
    facts = Facts(at=iso(now), token=row.hint, since=iso(row.expires_at))
    sequence = audit.lock_chain().sequence  # in one line with the notices of all events
    dedup = f"token-expiring:{row.id}:{days}"
    mail(row.user, NoticeKind.TOKEN_EXPIRING, facts, dedup=dedup, sequence=sequence, now=now)
