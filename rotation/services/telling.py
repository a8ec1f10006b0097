"""What is told of tokens on every level: that a dead one is used, that one was found in the open."""

from __future__ import annotations

import uuid
from datetime import datetime

from keyvault.services import replays
from keyvault.services.replays import Replay
from rotation.notice_rows import Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, put, tell


def tell_replay(replay: Replay) -> None:
    """To the team of the consumer, once a day for each token, in the transaction of the audit event."""
    token = replay.token
    facts = Facts(
        at=iso(replay.at),
        consumer=token.consumer.slug,
        token=token.hint,
        code=replay.why,
        since=iso(replay.since),
        place=replay.address,
    )
    team_id = token.consumer.team_id
    put(
        Channel.objects.hearing(team_id),
        NoticeKind.TOKEN_REPLAYED,
        facts,
        dedup=f"replayed:{token.id}:{replay.at:%Y-%m-%d}",
        sequence=replay.sequence,
        team_id=team_id,
        now=replay.at,
    )


def join_replays() -> None:
    replays.tell_with(tell_replay)


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
