"""The evidence file of a finished rotation: everything that happened and why, signed by this installation.

Only what no later event changes goes in, so that two exports of a settled rotation are the same bytes. The
format is described in docs/evidence.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from keyvault.crypto.evidence import FORMAT, VERSION, sign_evidence
from keyvault.exceptions import KeyturnError
from keyvault.keystore import installation_id, keys
from keyvault.models import AuditEvent, KeyVersion
from rotation.facts import Kind, Stage
from rotation.minutes import minutes_document
from rotation.models import Operation, Rotation, RotationEvent, RotationRecord
from rotation.services.saying import verbs_of

Document = dict[str, Any]


def evidence_of(rotation: Rotation) -> Document:
    """The signed document of a finished rotation. Reads only.

    Raises ``invalid_transition`` while the rotation is open.
    """
    finished_at = rotation.finished_at
    if finished_at is None:
        raise KeyturnError(
            "invalid_transition",
            "The evidence is there when the rotation is finished.",
            extra={"state": str(rotation.stage), "verbs": list(verbs_of(rotation))},
        )
    events = list(rotation.events.all())
    operations = sorted(rotation.operations.select_related("version"), key=_asked)
    record = RotationRecord.objects.filter(rotation=rotation).first()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "installation": installation_id(),
        "rotation": _rotation(rotation),
        "plan": record.plan if record is not None else None,
        "policy": rotation.policy,
        "approvals": _approvals(rotation),
        "transitions": [_transition(event) for event in events],
        "steps": list(_steps(events)),
        "operations": [_operation(row) for row in operations if row.kind != Kind.PROBE],
        "probes": [_probe(row) for row in operations if row.kind == Kind.PROBE and row.finished_at],
        "windows": {"length": "PT1M", "minutes": _minutes(rotation, record, finished_at)},
        "proof": record.proof if record is not None else None,
        "audit": _audit(rotation),
    }
    return sign_evidence(keys().service, document)


def evidence_file(document: Document) -> bytes:
    """The document as a file for people and programs; the signature holds in any way of writing it."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def evidence_name(rotation: Rotation) -> str:
    """What the file is called."""
    key = rotation.key
    return f"evidence-{key.service.slug}-{key.environment.slug}-{rotation.id.hex[:8]}.json"


def _at(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None


def _rotation(rotation: Rotation) -> Document:
    return {
        "id": str(rotation.id),
        "service": rotation.key.service.slug,
        "environment": rotation.key.environment.slug,
        "provider": rotation.key.service.provider.slug,
        "policy_slug": rotation.policy_slug,
        "trigger": rotation.trigger,
        "reason": rotation.reason,
        "requested_by": rotation.requested_by,
        "outgoing": _side(rotation.outgoing),
        "incoming": _side(rotation.incoming),
        "outcome": str(rotation.stage),
        "rolled_back_reason": rotation.rolled_back_reason or None,
        "no_fallback": rotation.no_fallback,
        "forced": rotation.force_asked_at is not None,
        "monitored_seconds": int(rotation.monitored_seconds),
        "verdict": {
            "result": rotation.verdict,
            "code": rotation.verdict_code,
            "reason": rotation.verdict_reason,
        },
        "created_at": _at(rotation.created_at),
        "revoke_asked_at": _at(rotation.revoke_asked_at),
        "finished_at": _at(rotation.finished_at),
        # A rolled-back rotation still has to end its incoming version; until then this file may grow.
        "settled": rotation.check_at is None,
    }


def _side(version: KeyVersion | None) -> Document | None:
    if version is None:
        return None
    return {"version": version.number, "fingerprint": version.short_fingerprint}


def _approvals(rotation: Rotation) -> list[Document]:
    rows = rotation.approvals.select_related("user").order_by("created_at", "id")
    return [
        {
            "transition": row.transition,
            "by": row.user.username,
            "reason": row.reason,
            "at": _at(row.created_at),
            "expires_at": _at(row.expires_at),
        }
        for row in rows
    ]


def _transition(event: RotationEvent) -> Document:
    return {
        "sequence": event.sequence,
        "at": _at(event.at),
        "event": event.name,
        "stage": event.stage,
        "weight": event.weight,
        "actor": event.actor,
        "reason": event.reason,
    }


def _steps(events: Sequence[RotationEvent]) -> Iterator[Document]:
    """Each weight with the time on it and the four shares at its end, when the next move was decided."""
    begun: RotationEvent | None = None
    for event in events:
        if event.shares is None:
            continue
        if begun is not None:
            yield {
                "stage": begun.stage,
                "weight": begun.weight,
                "from": _at(begun.at),
                "to": _at(event.at),
                "shares": event.shares,
            }
        begun = event if event.name == "weight" or event.stage == Stage.MONITOR else None


def _asked(row: Operation) -> tuple[datetime, int, str, int]:
    """In the order in which they were asked; of one instant, in the order in which they follow each other."""
    return row.created_at, list(Kind).index(Kind(row.kind)), row.side, row.attempt


def _operation(row: Operation) -> Document:
    return {
        "kind": row.kind,
        "side": row.side,
        "version": row.version.number,
        "attempt": row.attempt,
        "label": row.label,
        "state": row.state,
        "outcome": row.outcome,
        "message": row.message,
        "tries": row.tries,
        "superseded": row.superseded,
        "provider_request_id": row.provider_request_id,
        "asked_at": _at(row.created_at),
        "started_at": _at(row.started_at),
        "finished_at": _at(row.finished_at),
    }


def _probe(row: Operation) -> Document:
    return {
        "side": row.side,
        "version": row.version.number,
        "outcome": row.outcome or row.state,
        "at": _at(row.finished_at),
    }


def _minutes(rotation: Rotation, record: RotationRecord | None, finished_at: datetime) -> list[Document]:
    """As they were known when the rotation finished: what came later, or was forgotten, changes nothing."""
    if record is None or record.minutes is None:
        return minutes_document(rotation, finished_at)
    kept: list[Document] = record.minutes
    return kept


def _audit(rotation: Rotation) -> Document:
    """Where this rotation stands in the audit chain, event by event; a ``mac`` covers the one before."""
    key = rotation.key
    rows = AuditEvent.objects.filter(
        service=key.service.slug,
        environment=key.environment.slug,
        subject=str(rotation.id),
        name__startswith="rotation:",
    ).order_by("sequence")
    events = [
        {
            "sequence": row.sequence,
            "at": _at(row.at),
            "event": row.name,
            "stage": row.details.get("stage"),
            "mac": bytes(row.mac).hex(),
        }
        for row in rows
    ]
    ends = [{name: event[name] for name in ("sequence", "mac")} for event in (*events[:1], *events[-1:])]
    return {"first": ends[0], "last": ends[-1], "events": events}
