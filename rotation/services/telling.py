"""What is told of tokens on every level: that a dead one is used, that one has too many instances, that one
was found in the open.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from keyvault import audit
from keyvault.models import AuditEvent
from keyvault.services import replays, seats
from rotation.notice_rows import Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, put, tell


def join_audit() -> None:
    """What is seen while keys are delivered is told from now on."""
    audit.listen(replays.EVENT, tell_replay)
    audit.listen(seats.EVENT, tell_crowded)


def tell_replay(event: AuditEvent) -> None:
    """A dead token was used."""
    details = event.details
    facts = Facts(
        at=iso(event.at),
        consumer=details["consumer"],
        token=details["hint"],
        code=details["why"],
        since=iso(datetime.fromisoformat(details["since"])),
        place=details["address"],
    )
    _put(NoticeKind.TOKEN_REPLAYED, "replayed", event, facts)


def tell_crowded(event: AuditEvent) -> None:
    """One instance too many. It chose its name itself, so that stands in the audit only."""
    details = event.details
    facts = Facts(
        at=iso(event.at), consumer=details["consumer"], token=details["hint"], place=details["address"]
    )
    _put(NoticeKind.TOKEN_CROWDED, "crowded", event, facts)


def _put(kind: NoticeKind, what: str, event: AuditEvent, facts: Facts) -> None:
    """To the team of the consumer, once a day for each token, in the transaction of the audit event."""
    put(
        Channel.objects.hearing(event.team_id),
        kind,
        facts,
        dedup=f"{what}:{event.subject}:{event.at:%Y-%m-%d}",
        sequence=event.sequence,
        team_id=event.team_id,
        now=event.at,
    )


def tell_leak(
    *,
    token_id: uuid.UUID,
    team_id: uuid.UUID | None,
    consumer: str,
    hint: str,
    outcome: str,
    place: str,
    now: datetime,
) -> None:
    """Once for each token. ``outcome``: revoked, dead (before) or kept; a person's has no ``team_id``."""
    facts = Facts(at=iso(now), consumer=consumer, token=hint, code=outcome, place=place)
    channels = Channel.objects.hearing(team_id)
    tell(channels, NoticeKind.TOKEN_LEAKED, facts, dedup=f"leaked:{token_id}", team_id=team_id, now=now)
