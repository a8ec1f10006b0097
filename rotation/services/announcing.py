"""What is told of emergency runs and of drift: to each team what is its own, to the organisation all."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, Q

from keyvault.models import AuditEvent
from rotation.drift import Difference
from rotation.models import EmergencyItem, EmergencyRun, Finding
from rotation.notice_rows import LEVELS, Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, tell
from rotation.services.results import is_left

PATIENCE = timedelta(minutes=30)  # an emergency may stand still for so long before anybody is told
_NAMED = 5
# Secrets that work and should not: as with an emergency, every level hears.
_EVERY_LEVEL = frozenset({Difference.UNDEAD, Difference.UNOWNED})
_WORDS = {"key": "the key", "leak": "a secret that was found in the open", "person": "what a person has seen"}


def tell_run(
    run: EmergencyRun,
    kind: NoticeKind,
    now: datetime,
    *,
    dedup: str,
    who: str = "",
    code: str = "",
    since: str = "",
) -> None:
    """Tell every team that has something in this run, and the organisation, on all levels.

    A reader hears of the items of its own team only. ``dedup`` is that of the occasion.
    """
    items = list(
        run.items.select_related(
            "version", "key__service", "key__environment", "token__consumer", "token__environment"
        )
    )
    for team_id, own in _by_team(items).items():
        channels = _channels(team_id)
        if not channels:
            continue
        left = [_name_of(item) for item in own if is_left(item)]
        facts = Facts(
            at=iso(now),
            run=str(run.id),
            what=_what(run),
            who=who or run.requested_by,
            items=len(own),
            waiting=sum(item.state == EmergencyItem.WAITING for item in own),
            left=len(left),
            names=tuple(left[:_NAMED]),
            code=code,
            since=since,
        )
        tell(channels, kind, facts, dedup=f"{kind}:{run.id}:{dedup}", team_id=team_id, now=now)


def _by_team(items: Iterable[EmergencyItem]) -> Mapping[uuid.UUID | None, list[EmergencyItem]]:
    """The items of each team; under None, for the organisation, all of them."""
    found: dict[uuid.UUID | None, list[EmergencyItem]] = defaultdict(list)
    for item in items:
        found[None].append(item)
        if item.key is not None:
            found[item.key.service.team_id].append(item)
        elif item.token is not None:
            found[item.token.consumer.team_id].append(item)
    return found


def _channels(team_id: uuid.UUID | None) -> list[Channel]:
    """The channels of just this team; those of the organisation for None."""
    whose = Q(team__isnull=True) if team_id is None else Q(team_id=team_id)
    return list(Channel.objects.filter(whose, enabled=True, personal=False))


def _what(run: EmergencyRun) -> str:
    words = _WORDS.get(run.scope, f"the keys of the {run.scope}")
    return f"{words} {run.subject}".strip()


def _name_of(item: EmergencyItem) -> str:
    if item.key is not None and item.version is not None:
        return f"{item.key} v{item.version.number}"
    return f"a token of {item.token.consumer.slug}" if item.token is not None else "a key without a version"


def tell_stuck(now: datetime) -> None:
    """Emergencies in which nothing has moved for half an hour, each standstill once.

    A person who resumes one gives it another half hour.
    """
    for run in EmergencyRun.objects.filter(state=EmergencyRun.RUNNING, created_at__lte=now - PATIENCE):
        moved = _last_move(run)
        if moved > now - PATIENCE or (run.stuck_told_at is not None and run.stuck_told_at > moved):
            continue
        with transaction.atomic():
            untold = EmergencyRun.objects.filter(pk=run.pk, stuck_told_at=run.stuck_told_at)
            if untold.update(stuck_told_at=now):
                tell_run(run, NoticeKind.RUN_STUCK, now, dedup=iso(moved), since=iso(moved))


def _last_move(run: EmergencyRun) -> datetime:
    found = run.items.aggregate(
        begun=Max("started_at"),
        stage=Max("rotation__stage_entered_at"),
        finished=Max("rotation__finished_at"),
    )
    people = AuditEvent.objects.filter(
        name__in=("emergency:started", "emergency:resumed"), subject=str(run.id)
    )
    asked = people.order_by("-sequence").values_list("at", flat=True).first()
    moves: list[datetime | None] = [run.created_at, asked, *found.values()]
    return max(moment for moment in moves if moment is not None)


def tell_drift(row: Finding, now: datetime) -> None:
    """A difference that has just appeared. One that belongs to no key is the organisation's business."""
    key = row.key
    team_id = key.service.team_id if key is not None else None
    channels = Channel.objects.hearing(team_id)
    if key is not None and row.kind not in _EVERY_LEVEL:
        channels = channels.filter(level=LEVELS[0])
    facts = Facts(
        at=iso(now),
        service=key.service.slug if key is not None else "",
        environment=key.environment.slug if key is not None else "",
        outgoing=row.version.number if row.version is not None else None,
        code=row.kind,
        reason=row.detail.rstrip("."),
        provider=row.provider.name or row.provider.slug,
        provider_key=row.label or row.provider_key_id,
    )
    tell(channels, NoticeKind.DRIFT, facts, dedup=f"drift:{row.id}", team_id=team_id, now=now)
