"""Audit events: their names, and the chain they are recorded in.

An event is written in the transaction of the change it tells of, under the lock of the chain's head
row, so that events are numbered without gaps and none can be taken out unseen.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from django.db.models import QuerySet

from keyvault.crypto.mac import row_mac
from keyvault.keystore import keys
from keyvault.models import AuditEvent, AuditHead, Key
from keyvault.prepared import prepared
from keyvault.upsert import insert, update

if TYPE_CHECKING:
    from keyvault.actors import Actor

log = structlog.get_logger("keyturn.audit")

# name -> the details it may carry. A detail that is not listed is a programming error: an allow-list
# cannot leak what nobody thought of.
EVENTS: Mapping[str, frozenset[str]] = {
    "team:created": frozenset({"team"}),
    "team:member:set": frozenset({"user", "role"}),
    "team:member:removed": frozenset({"user"}),
    "user:created": frozenset({"user"}),
    "user:role:set": frozenset({"user", "role"}),
    "user:activated": frozenset({"user"}),
    "user:deactivated": frozenset({"user"}),
    "user:profile:changed": frozenset({"user", "fields"}),
    "user:second-factor:added": frozenset({"user", "kind"}),
    "user:second-factor:removed": frozenset({"user", "kind"}),
    "user:second-factor:reset": frozenset({"user"}),
    "user:sessions:ended": frozenset({"user", "sessions"}),
    "user:link:created": frozenset({"user", "role"}),
    "user:link:used": frozenset({"user"}),
    "user:link:withdrawn": frozenset({"user"}),
    "user:token:created": frozenset({"user", "hint", "expires_at"}),
    "user:token:revoked": frozenset({"user", "hint"}),
    "user:password:set": frozenset({"user"}),
    "user:email:set": frozenset({"user"}),
    "user:signed-in": frozenset({"user", "how", "address", "known"}),
    "user:signed-out": frozenset({"user", "why"}),
    "user:sign-in:failed": frozenset({"user", "what", "address", "count"}),
    "user:sign-in:limited": frozenset({"user", "what", "address", "count"}),
    "sign-on:refused": frozenset({"code"}),
    "provider:created": frozenset({"provider", "driver"}),
    "provider:changed": frozenset({"provider", "fields"}),
    "provider:tested": frozenset({"provider", "version"}),
    "service:created": frozenset({"service", "provider"}),
    "service:changed": frozenset({"service", "fields"}),
    "consumer:created": frozenset({"consumer"}),
    "consumer:token:created": frozenset({"consumer", "hint", "expires_at"}),
    "consumer:token:revoked": frozenset({"consumer", "hint"}),
    "consumer:token:rotated": frozenset({"consumer", "hint", "replaced_hint", "expires_at"}),
    "consumer:token:replayed": frozenset({"consumer", "hint", "why", "since", "address"}),
    "consumer:token:crowded": frozenset({"consumer", "hint", "limit", "instance", "address"}),
    "consumer:access-token:minted": frozenset({"consumer", "paths", "expires_in"}),
    "grant:created": frozenset({"consumer", "verbs"}),
    "grant:changed": frozenset({"consumer", "verbs"}),
    "grant:removed": frozenset({"consumer"}),
    "key:created": frozenset(),
    "key:changed": frozenset({"fields"}),
    "key:revealed": frozenset({"version"}),
    "key:weight:set": frozenset({"version", "weight"}),
    "key:promoted": frozenset({"version", "previous"}),
    "key:rolled-back": frozenset({"version", "withheld"}),
    "key:previous:retired": frozenset({"version"}),
    "key:version:requested": frozenset({"version"}),
    "key:version:imported": frozenset({"version", "fingerprint"}),
    "key:version:issued": frozenset({"version", "fingerprint"}),
    "key:version:expiry": frozenset({"version", "expires_at"}),
    "key:version:offered": frozenset({"version"}),
    "key:version:disabled": frozenset({"version"}),
    "key:version:enabled": frozenset({"version"}),
    "key:version:revoked": frozenset({"version"}),
    "key:version:destroyed": frozenset({"version"}),
    "key:version:compromised": frozenset({"version"}),
    "policy:created": frozenset({"policy"}),
    "policy:changed": frozenset({"policy", "fields"}),
    "policy:removed": frozenset({"policy"}),
    "policy:assigned": frozenset({"policy", "next_rotation_at"}),
    "schedule:brought-forward": frozenset({"trigger", "version", "next_rotation_at"}),
    "schedule:held": frozenset({"code", "until"}),
    "rotation:started": frozenset({"rotation", "policy", "trigger"}),
    "rotation:stage": frozenset({"rotation", "stage", "was"}),
    "rotation:weight": frozenset({"rotation", "weight", "step"}),
    "rotation:paused": frozenset({"rotation", "code"}),
    "rotation:resumed": frozenset({"rotation"}),
    "rotation:advanced": frozenset({"rotation", "stage"}),
    "rotation:attention": frozenset({"rotation", "code"}),
    "rotation:attention:cleared": frozenset({"rotation", "code"}),
    "rotation:approval:wanted": frozenset({"rotation", "transition"}),
    "rotation:reminded": frozenset({"rotation", "consumer"}),
    "rotation:late": frozenset({"rotation"}),
    "rotation:stands": frozenset({"rotation", "code"}),
    "rotation:escalated": frozenset({"rotation", "level", "code"}),
    "rotation:approved": frozenset({"rotation", "transition", "plan"}),
    "rotation:declined": frozenset({"rotation", "transition", "plan"}),
    "rotation:glass:broken": frozenset({"rotation", "transition", "plan", "review_by"}),
    "rotation:glass:reviewed": frozenset({"rotation", "transition", "who", "sound"}),
    "rotation:glass:overdue": frozenset({"rotation", "transition", "who"}),
    "rotation:extended": frozenset({"rotation", "deadline", "was"}),
    "rotation:abort:asked": frozenset({"rotation"}),
    "rotation:rollback": frozenset({"rotation", "version"}),
    "rotation:supplied": frozenset({"rotation", "version"}),
    "rotation:revoke:confirmed": frozenset({"rotation", "version"}),
    "rotation:revoke:forced": frozenset({"rotation", "version", "offenders"}),
    "rotation:gap": frozenset({"rotation", "version"}),
    "rotation:gap:over": frozenset({"rotation", "version", "seconds"}),
    "rotation:operation": frozenset({"rotation", "operation", "outcome", "attempt"}),
    "rotation:finished": frozenset({"rotation", "stage"}),
    "demo-data:added": frozenset({"team"}),
    "demo-data:removed": frozenset({"team"}),
    "emergency:started": frozenset({"run", "scope", "mode", "items"}),
    "emergency:stopped": frozenset({"run", "waiting"}),
    "emergency:resumed": frozenset({"run", "again"}),
    "emergency:finished": frozenset({"run"}),
    "leak:scanned": frozenset({"scanner", "what", "hint", "outcome", "place"}),
    "leak:reported": frozenset({"versions", "run"}),
    "channel:created": frozenset({"channel", "kind"}),
    "channel:changed": frozenset({"channel", "fields"}),
    "channel:removed": frozenset({"channel"}),
    "channel:secret:rotated": frozenset({"channel"}),
    "channel:tested": frozenset({"channel"}),
    "drift:found": frozenset({"provider", "kind", "version", "provider_key_id"}),
    "drift:gone": frozenset({"provider", "kind", "version", "provider_key_id"}),
    "database:restored": frozenset({"rotations", "sequence", "lost"}),
    "database:reconciled": frozenset({"applied", "held", "journal"}),
    "backup:made": frozenset({"kids", "sequence"}),
    "keyring:escrowed": frozenset({"kids", "recipients"}),
    "deliveries:sealed": frozenset({"first", "last", "count", "sha256"}),
    "deliveries:forgotten": frozenset({"last"}),
    "audit:exported": frozenset({"form", "filters"}),
    "kek:added": frozenset({"environment", "kid", "provider"}),
    "kek:promoted": frozenset({"environment", "kid", "was"}),
    "kek:rewrapped": frozenset({"environment", "kid", "rows"}),
    "kek:retired": frozenset({"environment", "kid"}),
}


# Who else hears of an event, in its transaction. Set when the app is ready.
Listener = Callable[[AuditEvent], None]
_listeners: dict[str, Listener] = {}


def listen(name: str, listener: Listener) -> None:
    """Call ``listener`` with each event of this name, after it was written: one listener for a name."""
    if name not in EVENTS:
        raise ValueError(name)
    _listeners[name] = listener


SEALS: Final = frozenset({"deliveries:sealed"})


class Event(NamedTuple):
    """A row of the chain as it is read in bulk: tuples come several times as fast as models."""

    sequence: int
    at: datetime
    name: str
    actor_kind: str
    actor: str
    team_id: str
    service: str
    environment: str
    subject: str
    reason: str
    details: dict[str, Any]
    request_id: str
    mac: bytes


def chain_mac(previous: bytes, event: AuditEvent | Event, key: bytes) -> bytes:
    """The MAC of an event: over the one before and every column of this one. ``key``: that of the chain."""
    return row_mac(
        key,
        "audit",
        previous,
        event.sequence,
        event.at,
        event.name,
        event.actor_kind,
        event.actor,
        str(event.team_id or ""),
        event.service,
        event.environment,
        event.subject,
        event.reason,
        json.dumps(event.details, sort_keys=True, separators=(",", ":")),
        event.request_id,
    )


@prepared
def _head() -> QuerySet[AuditHead]:
    return AuditHead.objects.select_for_update().filter(singleton=True)


def lock_chain() -> AuditHead:
    """The head of the chain, locked until the transaction ends. Take it after every other lock."""
    return _head.first() or AuditHead.objects.select_for_update().get_or_create(singleton=True)[0]


def is_told(name: str, subject: str, *, since: datetime) -> bool:
    """Whether there is an event of this name about this subject after that time."""
    return AuditEvent.objects.filter(name=name, subject=subject, at__gt=since).exists()


def record(
    name: str,
    *,
    actor: Actor,
    now: datetime,
    key: Key | None = None,
    team_id: uuid.UUID | None = None,
    subject: str = "",
    reason: str = "",
    **details: Any,
) -> AuditEvent:
    """Append one event. Call it last in the transaction of the change: the head row is a lock.

    ``details`` must be JSON values named in ``EVENTS``; secrets never, not even as digests.
    """
    unexpected = details.keys() - EVENTS[name]
    if unexpected:
        raise ValueError(f"{name} does not carry {sorted(unexpected)}")
    head = lock_chain()
    event = AuditEvent(
        sequence=head.sequence + 1,
        at=now,
        name=name,
        actor_kind=actor.kind,
        actor=actor.name,
        team_id=key.service.team_id if key is not None else team_id,
        service=key.service.slug if key is not None else "",
        environment=key.environment.slug if key is not None else "",
        subject=subject,
        reason=reason,
        details=details,
        request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
    )
    event.mac = chain_mac(bytes(head.mac), event, keys().service.audit)
    insert(event)
    head.sequence, head.mac = event.sequence, event.mac
    update(head, "sequence", "mac")
    if name in _listeners:
        _listeners[name](event)
    # Seals come by the second: in the log they would hide the rest.
    tell = log.debug if name in SEALS else log.info
    tell(
        name, sequence=event.sequence, actor=actor.name, service=event.service, environment=event.environment
    )
    return event
