"""Audit events as a file, written while it is sent. Pure but for the events that it is given."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC
from typing import Any

from keyvault.models import AuditEvent

MOST = 50_000
COLUMNS = (
    "sequence", "at", "event", "actor_kind", "actor", "service", "environment", "subject", "reason",
    "details", "request_id",
)  # fmt: skip
_ACTIVE = ("=", "+", "-", "@", "\t", "\r", "\n")
CAPPED = f"Stopped after {MOST} events. Narrow it down, or go on below the last number."


def cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = str(value)
    return f"'{text}" if text.startswith(_ACTIVE) else text


def _plain(event: AuditEvent) -> dict[str, Any]:
    return {
        "sequence": event.sequence,
        "at": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "event": event.name,
        "actor_kind": event.actor_kind,
        "actor": event.actor,
        "service": event.service,
        "environment": event.environment,
        "subject": event.subject,
        "reason": event.reason,
        "details": event.details,
        "request_id": event.request_id,
    }


def as_csv(events: Iterable[AuditEvent]) -> Iterator[str]:
    """A line for each event; one more that says so where it was stopped."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)

    def line(cells: Iterable[object]) -> str:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow([cell(value) for value in cells])
        return buffer.getvalue()

    yield line(COLUMNS)
    count = 0
    for event in events:
        count += 1
        plain = _plain(event)
        plain["details"] = json.dumps(event.details, sort_keys=True)
        yield line(plain[name] for name in COLUMNS)
    if count >= MOST:
        yield line([CAPPED])


def as_json(events: Iterable[AuditEvent]) -> Iterator[str]:
    """``{"events": [...], "capped": false}``, an event in a line."""
    yield '{"events": ['
    count = 0
    for count, event in enumerate(events, 1):
        yield ("\n" if count == 1 else ",\n") + json.dumps(_plain(event))
    yield f'\n], "capped": {json.dumps(count >= MOST)}}}\n'


WRITERS: Mapping[str, tuple[str, Callable[[Iterable[AuditEvent]], Iterator[str]]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "json": ("application/json", as_json),
}
