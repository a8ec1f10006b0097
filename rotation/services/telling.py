"""What is told of tokens on every level: that a dead one is used, that one has too many instances, that one
was found in the open.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from keyvault.services import replays, seats
from keyvault.services.replays import Replay
from keyvault.services.seats import Crowded
from rotation.notice_rows import Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, put, tell


def tell_replay(replay: Replay) -> None:
    """A dead token was used."""
    facts = Facts(
        at=iso(replay.at),
        consumer=replay.token.consumer.slug,
        token=replay.token.hint,
        code=replay.why,
        since=iso(replay.since),
        place=replay.address,
    )
    _put(NoticeKind.TOKEN_REPLAYED, "replayed", replay, facts)


def tell_crowded(crowded: Crowded) -> None:
    """One instance too many. It chose its name itself, so that stands in the audit only."""
    token = crowded.token
    facts = Facts(at=iso(crowded.at), consumer=token.consumer.slug, token=token.hint, place=crowded.address)
    _put(NoticeKind.TOKEN_CROWDED, "crowded", crowded, facts)


def _put(kind: NoticeKind, what: str, seen: Replay | Crowded, facts: Facts) -> None:
    """To the team of the consumer, once a day for each token, in the transaction of the audit event."""
    team_id = seen.token.consumer.team_id
    put(
        Channel.objects.hearing(team_id),
        kind,
        facts,
        dedup=f"{what}:{seen.token.id}:{seen.at:%Y-%m-%d}",
        sequence=seen.sequence,
        team_id=team_id,
        now=seen.at,
    )


def join_delivery() -> None:
    """What is seen while keys are delivered is told from now on."""
    replays.tell_with(tell_replay)
    seats.tell_with(tell_crowded)


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
