"""Whether the database is still the one that we left, or a backup of it.

Outside the database, in the data directory, stands a mark: where the database stood when a scheduler last
looked, and beside it a journal of what was taken away. A database that is behind its mark, or has another
event there, was restored. What it believes may then be wrong: keys and tokens may have ended since. So it
goes into quarantine: consumers are given nothing, every unfinished rotation stops and calls a person, and no
provider is called until somebody has reconciled it (``reconciling``).
"""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent
from keyvault.services import checkpoints, quarantine
from keyvault.services.checkpoints import Checkpoint
from rotation import engine
from rotation.facts import RESTORED, Attention, Kind, OperationState, Verb
from rotation.models import KeySchedule, Operation, Rotation
from rotation.services import anchoring, journal

log = structlog.get_logger("keyturn.tick")

STARTS_WAIT = timedelta(hours=24)  # what is due by an old calendar may have been rotated since
NEXT = "keyturn restore_reconcile"
_CALL = Attention(
    RESTORED,
    "the database was restored from a backup: compare the keys with the provider's, then resume",
    (Verb.RESUME,),  # and abort, where there is a way back
)


def watch(now: datetime) -> int:
    """Compare the database with the mark and move the mark. Returns how many rotations were stopped."""
    mark, here = _read(), checkpoints.here(now)
    if mark is not None and mark.installation != here.installation:
        mark = None
    stopped, known = 0, None if mark is None else mark.sequence
    if mark is not None and mark.is_ahead_of(here):
        known = here.sequence
        stopped = _begin_once(mark, here, now)
        here = checkpoints.here(now)
    if mark is None or (mark.changes, mark.mac) != (here.changes, here.mac):
        # The journal first: what stands behind the mark is in it.
        journal.follow(known)
        _write(here)
    return stopped


def put_back(now: datetime) -> bool:
    """A backup was just put back, in this transaction. Returns whether it has to be reconciled.

    It has not where nothing was recorded after it, as far as the mark and the checkpoints of this host tell.
    """
    mark, here = _read(), checkpoints.here(now)
    last = checkpoints.newest(anchoring.own_directory())
    known = [one for one in (mark, last) if one is not None and one.installation == here.installation]
    if mark in known and not any(one.is_ahead_of(here) for one in known):
        return False
    _begin(here, max((one.sequence for one in known), default=here.sequence), now)
    return True


def reconcile(rotation: Rotation, now: datetime) -> None:
    """A person resumes it: what it was about to ask for may have been asked for after the backup was made."""
    Operation.objects.filter(rotation=rotation, kind=Kind.ISSUE, state=OperationState.PENDING).update(
        state=OperationState.UNKNOWN,
        outcome="lost_answer",
        message="it may have been asked for before the database was restored",
        fence=F("fence") + 1,
        retry_at=None,
        finished_at=now,
    )


def _begin_once(mark: Checkpoint, here: Checkpoint, now: datetime) -> int:
    if AuditEvent.objects.filter(name="database:restored", at__gt=mark.at).exists():
        return 0  # the scheduler of another host was first, or the command that put it back
    return _begin(here, mark.sequence, now)


def _begin(here: Checkpoint, was: int, now: datetime) -> int:
    """Hold everything, then stop what is under way. Returns how many rotations that were."""
    quarantine.hold_everything("the database was restored from a backup", sequence=here.sequence, now=now)
    unfinished = list(Rotation.objects.filter(check_at__isnull=False).values_list("id", flat=True))
    for rotation_id in unfinished:
        with transaction.atomic():
            engine.call_person(engine.lock(rotation_id), _CALL, now)
    soon = KeySchedule.objects.filter(next_rotation_at__lt=now + STARTS_WAIT)
    soon.update(next_rotation_at=now + STARTS_WAIT)
    with transaction.atomic():
        audit.record(
            "database:restored",
            actor=SYSTEM,
            now=now,
            rotations=len(unfinished),
            sequence=here.sequence,
            lost=max(0, was - here.sequence),
        )
    log.error(
        "the database was restored from a backup: nothing is delivered", rotations=len(unfinished), next=NEXT
    )
    return len(unfinished)


def _file() -> Path:
    return Path(settings.KEYTURN_DATA) / "mark.json"


def _read() -> Checkpoint | None:
    try:
        return Checkpoint.from_document(json.loads(_file().read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (KeyError, ValueError, TypeError) as error:
        log.warning("the mark beside the database cannot be read", error=type(error).__name__)
        return None


def _write(mark: Checkpoint) -> None:
    target = _file()
    # mkstemp makes the file with mode 0600; the rename shows it whole or not at all.
    handle, temporary = tempfile.mkstemp(prefix=".mark-", dir=target.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(mark.document(), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, target)
