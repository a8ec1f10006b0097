"""Whether the database is still the one that we left, or a backup of it.

Outside the database, in the data directory, stands a mark: the installation, the number of the last change
and the end of the audit chain, as a scheduler saw them. A database that is behind its mark, or has another
event there, was restored. What its rotations believe may then be wrong: keys may have been made or revoked
since. So every unfinished one stops and calls a person, and no provider is called for it until somebody
resumes it.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.keystore import installation_id
from keyvault.models import AuditEvent, AuditHead, ChangeCounter
from rotation import engine
from rotation.facts import RESTORED, Attention, Kind, OperationState, Verb
from rotation.models import KeySchedule, Operation, Rotation

log = structlog.get_logger("keyturn.tick")

STARTS_WAIT = timedelta(hours=24)  # what is due by an old calendar may have been rotated since
_CALL = Attention(
    RESTORED,
    "the database was restored from a backup: compare the keys with the provider's, then resume",
    (Verb.RESUME,),  # and abort, where there is a way back
)


@dataclass(frozen=True)
class Mark:
    """``changes``: number of the last change; ``sequence``, ``mac``: the last audit event; ``at``: when."""

    installation: str
    changes: int
    sequence: int
    mac: str
    at: str


def watch(now: datetime) -> int:
    """Compare the database with the mark and move the mark. Returns how many rotations were stopped."""
    mark, here = _read(), _here(now)
    stopped = 0
    if mark is not None and mark.installation == here.installation and _is_behind(mark, here):
        stopped = _stop_all(mark, here, now)
        here = _here(now)
    if mark is None or (mark.changes, mark.mac) != (here.changes, here.mac):
        _write(here)
    return stopped


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


def _is_behind(mark: Mark, here: Mark) -> bool:
    if here.changes < mark.changes:
        return True
    event = AuditEvent.objects.filter(sequence=mark.sequence).first()
    return mark.sequence > 0 and (event is None or bytes(event.mac).hex() != mark.mac)


def _stop_all(mark: Mark, here: Mark, now: datetime) -> int:
    told = AuditEvent.objects.filter(name="database:restored", at__gt=datetime.fromisoformat(mark.at))
    if told.exists():
        return 0  # the scheduler of another host was first
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
            lost=max(0, mark.sequence - here.sequence),
        )
    log.error("the database was restored from a backup", rotations=len(unfinished))
    return len(unfinished)


def _here(now: datetime) -> Mark:
    changes = ChangeCounter.objects.values_list("seq", flat=True).first() or 0
    head = AuditHead.objects.first()
    sequence, mac = (head.sequence, bytes(head.mac).hex()) if head is not None else (0, "")
    return Mark(installation_id(), changes, sequence, mac, now.isoformat())


def _file() -> Path:
    return Path(settings.KEYTURN_DATA) / "mark.json"


def _read() -> Mark | None:
    try:
        return Mark(**json.loads(_file().read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("the mark beside the database cannot be read", error=type(error).__name__)
        return None


def _write(mark: Mark) -> None:
    target = _file()
    # mkstemp makes the file with mode 0600; the rename shows it whole or not at all.
    handle, temporary = tempfile.mkstemp(prefix=".mark-", dir=target.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(asdict(mark), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, target)
