"""Whether the audit trail is as it was written, and keys and rotations stand where it leaves them.

Asked for by ``manage.py audit_verify``, and every night by the scheduler: a trail that nobody looks at
protects nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.db import DatabaseError

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.models import AuditHead
from keyvault.services import beats, verifying
from keyvault.services.checkpoints import BrokenCheckpoints
from keyvault.services.verifying import Finding, Proof
from rotation.notice_rows import Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, tell
from rotation.services import anchoring, replaying

log = structlog.get_logger("keyturn.audit")

PROVED: Final = "audit-proved"  # the heartbeat that says when it was last found intact
_ASK: Final = "Is the scheduler running?"


class Verdict(StrEnum):
    INTACT = "intact"
    TAMPERED = "tampered"
    UNANCHORED = "unanchored"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Outcome:
    """``words`` say what was found, without a secret."""

    verdict: Verdict
    words: str
    proof: Proof = field(default_factory=Proof)


def own_places() -> list[Path]:
    """The folders of checkpoints that this host can read."""
    named = [urlsplit(place) for place in settings.KEYTURN_CHECKPOINTS_TO]
    places = [anchoring.own_directory(), *(Path(place.path) for place in named if place.scheme == "file")]
    return [place for place in places if place.is_dir()]


def prove(places: Sequence[Path], now: datetime) -> Outcome:
    """Look at everything and compare it with these checkpoints: folders of them, or files."""
    missing = [place for place in places if not place.exists()]
    if missing:
        return Outcome(Verdict.UNKNOWN, f"There are no checkpoints at {missing[0]}.")
    try:
        proof = verifying.prove(places, now)
        if proof.finding is None:
            proof.finding = _replayed(proof)
    except (KeyringError, KeyServiceUnavailable, BrokenCheckpoints) as error:
        return Outcome(Verdict.UNKNOWN, str(error))
    except DatabaseError as error:
        return Outcome(Verdict.UNKNOWN, f"The database does not answer ({type(error).__name__}).")
    return Outcome(*_verdict(proof), proof)


def prove_nightly(now: datetime) -> Verdict:
    """Prove what this host can, and tell the organisation of anything but an intact trail, once a day."""
    try:
        # Where several hosts keep checkpoints in turn, the newest may be on another.
        anchoring.keep(now)
    except OSError as error:
        log.warning("no checkpoint before the proof", error=type(error).__name__)
    outcome = prove(own_places(), now)
    if outcome.verdict is Verdict.INTACT:
        beats.note(PROVED, now)
        log.info("audit trail proved", events=outcome.proof.events, deliveries=outcome.proof.deliveries)
        return outcome.verdict
    log.error("audit trail not proved", verdict=outcome.verdict.value, reason=outcome.words.rstrip("."))
    channels = Channel.objects.of_organisation()
    facts = Facts(at=iso(now), code=outcome.verdict, reason=outcome.words.rstrip("."))
    dedup = f"audit:{outcome.verdict}:{now:%Y-%m-%d}"
    tell(channels, NoticeKind.AUDIT_UNPROVED, facts, dedup=dedup, team_id=None, now=now)
    return outcome.verdict


def _replayed(proof: Proof) -> Finding | None:
    """The first thing that stands otherwise than its events tell; None for nothing."""
    found = next(replaying.differences(until=proof.events), None)
    if found is None or AuditHead.objects.get().sequence != proof.events:
        return None  # something was changed while we looked, which the next look will understand
    return Finding(found)


def _verdict(proof: Proof) -> tuple[Verdict, str]:
    if proof.finding is not None:
        return Verdict.TAMPERED, proof.finding.what
    if proof.unanchored:
        since = f"{proof.unanchored_since:%Y-%m-%d %H:%M:%S} UTC"
        return Verdict.UNANCHORED, f"{proof.unanchored} events since {since} are in no checkpoint. {_ASK}"
    if proof.unsealed:
        return Verdict.UNANCHORED, f"{proof.unsealed} deliveries are in no seal. {_ASK}"
    words = "every event, delivery and checkpoint is as it was written."
    if proof.given_up:
        words += f" {proof.given_up} events were lost in a restore that was confirmed."
    return Verdict.INTACT, words
