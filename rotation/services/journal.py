"""What was taken away, written down beside the database: a restored one does not know of it.

One line of JSON for every audit event that ends something or gives a key another value; no secrets. The
scheduler adds to it at each beat, before it moves its mark. ``{"since": n}`` begins a stretch without gaps:
every such event after number n stands behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from keyvault.durable import append_lines
from keyvault.models import AuditEvent

# Another value of the key, or another version that answers.
VALUES: Final = frozenset(
    {
        "key:promoted",
        "key:rolled-back",
        "key:version:imported",
        "key:version:issued",
    }
)
ENDINGS: Final = frozenset(
    {
        "consumer:token:revoked",
        "consumer:token:rotated",
        "user:token:revoked",
        "user:deactivated",
        "grant:changed",
        "grant:removed",
        "key:version:compromised",
        "key:version:destroyed",
        "key:version:disabled",
        "key:version:revoked",
    }
)
# A person has to look at these again: what they took away cannot be told from the event alone.
PEOPLE: Final = frozenset(
    {
        "team:member:removed",
        "team:member:set",
        "user:password:set",
        "user:role:set",
        "user:second-factor:added",
        "user:second-factor:removed",
        "user:second-factor:reset",
    }
)


@dataclass(frozen=True)
class Line:
    """One event; its MAC (hex) tells it from one with the same number after a restore."""

    sequence: int
    mac: str
    at: str
    name: str
    subject: str
    service: str
    environment: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Lost:
    """Events that the database no longer knows. ``complete``: no event of these kinds is missing."""

    lines: tuple[Line, ...]
    complete: bool


def file() -> Path:
    return Path(settings.KEYTURN_DATA) / "journal.jsonl"


def follow(after: int | None) -> None:
    """Write down what was recorded after this event; None: what was before now is not known."""
    path = file()
    if after is None or not path.exists():
        after = AuditEvent.objects.order_by("-sequence").values_list("sequence", flat=True).first() or 0
        _append(path, [{"since": after}])
        return
    events = AuditEvent.objects.filter(sequence__gt=after, name__in=VALUES | ENDINGS | PEOPLE)
    lines = [
        {
            "sequence": event.sequence,
            "mac": bytes(event.mac).hex(),
            "at": event.at.isoformat(),
            "name": event.name,
            "subject": event.subject,
            "service": event.service,
            "environment": event.environment,
            "details": event.details,
        }
        for event in events.order_by("sequence").iterator()
    ]
    _append(path, lines)


def lost_since(sequence: int) -> Lost:
    """What happened after this event and is not in the database any more, oldest first."""
    since: int | None = None
    found: dict[str, Line] = {}
    for entry in _entries(file()):
        if "since" in entry:
            since = int(entry["since"])
        elif entry["sequence"] > sequence:
            found[entry["mac"]] = Line(**entry)
    known = AuditEvent.objects.filter(sequence__in={line.sequence for line in found.values()})
    here = {bytes(mac).hex() for mac in known.values_list("mac", flat=True)}
    lines = sorted((line for mac, line in found.items() if mac not in here), key=lambda one: one.at)
    return Lost(tuple(lines), complete=since is not None and since <= sequence)


def _append(path: Path, entries: list[dict[str, Any]]) -> None:
    if entries:
        lines = [json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in entries]
        append_lines(path, b"".join(lines))


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut short by a crash: it was written again by the beat after
            if isinstance(entry, dict):
                yield entry
