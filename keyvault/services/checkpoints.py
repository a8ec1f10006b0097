"""Checkpoints: where the audit chain stood, signed, and kept outside the database.

A chain says of itself only that it was not changed in the middle. That its end was not cut off, or that the
whole database is not an old one, is told by what was written down elsewhere. One line of JSON each, in files
of a month (``2026-11.jsonl``); every line names the digest of the one before, so that the signature of the
last vouches for all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from keyvault.crypto import signed
from keyvault.durable import append_lines
from keyvault.keystore import installation_id, keys
from keyvault.models import AuditEvent, AuditHead, ChangeCounter

FORMAT: Final = "keyturn-checkpoint"
VERSION: Final = 1

_KIND: Final = "checkpoint"
_SUFFIX: Final = ".jsonl"
_LONGEST_LINE: Final = 4_096


class BrokenCheckpoints(Exception):
    """A file of checkpoints was changed. The text names file and line.

    ``unknown``: it was signed with a key that this process does not have, so nothing can be said of it.
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The chain ended with event ``sequence``, whose MAC is ``mac`` (hex), at ``at``.

    ``changes``: number of the last change that delivery knew. ``restored_to``: the database was put back, on
    purpose, to this event; what earlier checkpoints say of later events no longer holds. ``previous``: digest
    of the line before, empty in the first.
    """

    installation: str
    at: datetime
    sequence: int
    mac: str
    changes: int
    restored_to: int | None = None
    previous: str = ""

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "installation": self.installation,
            "at": self.at.isoformat(),
            "sequence": self.sequence,
            "mac": self.mac,
            "changes": self.changes,
            "restored_to": self.restored_to,
            "previous": self.previous,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what is none."""
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError("another format")
        restored_to = document["restored_to"]
        return cls(
            installation=str(document["installation"]),
            at=datetime.fromisoformat(document["at"]),
            sequence=int(document["sequence"]),
            mac=str(document["mac"]),
            changes=int(document["changes"]),
            restored_to=None if restored_to is None else int(restored_to),
            previous=str(document["previous"]),
        )

    def is_ahead_of(self, here: Checkpoint) -> bool:
        """Whether a database of the same installation that stands at ``here`` lost what was there once."""
        if here.changes < self.changes or here.sequence < self.sequence:
            return True
        if self.sequence == 0:
            return False
        event = AuditEvent.objects.filter(sequence=self.sequence).values_list("mac", flat=True).first()
        return event is None or bytes(event).hex() != self.mac


def here(now: datetime, *, restored_to: int | None = None) -> Checkpoint:
    """Where this database stands."""
    head = AuditHead.objects.first()
    return Checkpoint(
        installation=installation_id(),
        at=now,
        sequence=0 if head is None else head.sequence,
        mac="" if head is None else bytes(head.mac).hex(),
        changes=ChangeCounter.objects.values_list("seq", flat=True).first() or 0,
        restored_to=restored_to,
    )


def linked(directory: Path, checkpoint: Checkpoint) -> tuple[Checkpoint, bytes]:
    """The checkpoint as the next one of a directory, and its signed line without the end of line.

    Raises ``KeyringError`` where the signing key cannot be had.
    """
    before = last_line(directory)
    made = replace(checkpoint, previous="" if before is None else digest(before))
    return made, signed.canonical(signed.sign(keys().service, _KIND, made.document()))


def digest(line: bytes) -> str:
    """What the next line calls this one."""
    return hashlib.sha256(line).hexdigest()


def append(directory: Path, line: bytes, at: datetime) -> None:
    """Add a line to the file of its month. Durable on return; raises ``OSError``."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    append_lines(directory / f"{at:%Y-%m}{_SUFFIX}", line + b"\n")


def last_line(directory: Path) -> bytes | None:
    """The newest whole line of a directory, unchecked; None where there is none."""
    for path in reversed(_files(directory)):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2 * _LONGEST_LINE))
            lines = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{")]
        for line in reversed(lines):
            if _parsed(line) is not None:
                return line
    return None


def newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint of a directory, as it stands there."""
    line = last_line(directory)
    return None if line is None else _parsed(line)


def last(directory: Path) -> Checkpoint | None:
    """The newest checkpoint of a directory, its signature checked. Raises ``BrokenCheckpoints``."""
    line = last_line(directory)
    if line is None:
        return None
    _check_signature(line, str(directory))
    return Checkpoint.from_document(json.loads(line))


def read_all(place: Path) -> Iterator[Checkpoint]:
    """Every checkpoint of a directory or of one file, oldest first.

    The signature of a line vouches for those that it leads back to; it is checked where such a run ends.
    Raises ``BrokenCheckpoints`` at the first line that is not ours.
    """
    run: bytes | None = None
    where = ""
    for path in _files(place) if place.is_dir() else [place]:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                line = text.rstrip(b"\n")
                document = _parsed(line) if text.endswith(b"\n") else None
                if document is None:
                    if line.strip() and text.endswith(b"\n") and not _is_torn(line):
                        raise BrokenCheckpoints(f"{path.name} line {number} is no checkpoint.")
                    continue
                if run is not None and document.previous != digest(run):
                    _check_signature(run, where)
                yield document
                run, where = line, f"{path.name} line {number}"
    if run is not None:
        _check_signature(run, where)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob(f"*{_SUFFIX}") if path.is_file())


def _is_torn(line: bytes) -> bool:
    """The beginning of a line of ours that a crash cut short."""
    return line.startswith(b'{"at":') and not line.endswith(b"}")


def _parsed(line: bytes) -> Checkpoint | None:
    try:
        return Checkpoint.from_document(signed.read_document(line))
    except (signed.NotADocument, KeyError, TypeError, ValueError):
        return None


def _check_signature(line: bytes, where: str) -> None:
    try:
        signed.verify(json.loads(line), _KIND, signed.public_key_set(keys().service))
    except signed.SignedError as error:
        unknown = isinstance(error, signed.UnknownSigner)
        raise BrokenCheckpoints(f"{where}: {error}", unknown=unknown) from error
