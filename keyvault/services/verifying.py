"""Proving the audit trail: the chain event by event, the deliveries sealed into it, the checkpoints outside.

Everything is read once, in order and in pages, so that a trail of any length fits into memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from django.db import connection

from keyvault import audit
from keyvault.audit import Event
from keyvault.keystore import installation_id, keys
from keyvault.models import AuditEvent, Delivery
from keyvault.services import checkpoints, retention, sealing
from keyvault.services.checkpoints import BrokenCheckpoints

# What came later than this before now may still be on its way into a seal or a checkpoint.
ON_ITS_WAY: Final = timedelta(minutes=2)
PAGE: Final = 5_000
MAC_SIZE: Final = 32
_ROWS: Final = """
    SELECT sequence, at, name, actor_kind, actor, team_id, service, environment, subject, reason, details,
           request_id, mac
    FROM keyvault_auditevent WHERE sequence > %s AND sequence <= %s ORDER BY sequence LIMIT %s
"""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was left. ``sequence``: the event at which it shows, where there is one."""

    what: str
    sequence: int | None = None


@dataclass
class Proof:
    """What was looked at, and what was found. ``finding`` is the first thing that is wrong.

    ``unanchored`` events have been outside every checkpoint for too long, since ``unanchored_since``;
    ``unsealed`` deliveries outside every seal. ``given_up`` were lost in a restore that a person confirmed.
    """

    events: int = 0
    seals: int = 0
    deliveries: int = 0
    forgotten: int = 0
    checkpoints: int = 0
    given_up: int = 0
    unanchored: int = 0
    unanchored_since: datetime | None = None
    unsealed: int = 0
    finding: Finding | None = None


class Tampered(Exception):
    """The trail is not as it was written; ``finding`` says where."""

    def __init__(self, what: str, sequence: int | None = None) -> None:
        super().__init__(what)
        self.finding = Finding(what, sequence)


def prove(places: Iterable[Path], now: datetime) -> Proof:
    """Look at everything. ``places``: directories or files of checkpoints.

    Raises ``KeyringError``, and ``BrokenCheckpoints`` where another key signed them: it cannot be told then.
    """
    proof = Proof()
    try:
        anchors = [_Anchors(place, proof) for place in places]
        _prove_chain(proof, anchors, now)
    except Tampered as tampered:
        proof.finding = tampered.finding
    except BrokenCheckpoints as broken:
        if broken.unknown:
            raise
        proof.finding = Finding(str(broken))
    return proof


def _prove_chain(proof: Proof, anchors: Sequence[_Anchors], now: datetime) -> None:
    deliveries, key = _Deliveries(proof), keys().service.audit
    anchored = max((each.last for each in anchors), default=0)
    head = _head()
    previous, last, tail_at = b"", 0, None
    for event in events(until=head.sequence):
        if event.sequence != last + 1:
            raise Tampered(f"Event {last + 1} is missing.", last + 1)
        if not hmac.compare_digest(event.mac, audit.chain_mac(previous, event, key)):
            raise Tampered(f"Event {event.sequence} is not as it was written.", event.sequence)
        for anchor in anchors:
            anchor.compare(event)
        if event.name == sealing.EVENT:
            deliveries.compare(event)
        if event.sequence > anchored and tail_at is None:
            tail_at = event.at
        previous, last = event.mac, event.sequence
        proof.events += 1
    if (last, previous) != (head.sequence, head.mac):
        raise Tampered(f"Event {last + 1} is missing: the head of the chain knows it.", last + 1)
    if head.newest > last:
        raise Tampered(f"Event {last + 1} is beyond the head of the chain.", last + 1)
    for anchor in anchors:
        anchor.compare_end(last)
    deliveries.compare_rest(now)
    if tail_at is not None and tail_at < now - ON_ITS_WAY:
        proof.unanchored, proof.unanchored_since = last - anchored, tail_at


class _Head(NamedTuple):
    """What the head of the chain knows, and the highest sequence that is there."""

    sequence: int
    mac: bytes
    newest: int


def _head() -> _Head:
    """The end of the chain at this moment; what is appended meanwhile is left to the next look."""
    with connection.cursor() as cursor:
        # In one statement, or an event that is appended between two of them would look forged.
        cursor.execute(
            "SELECT (SELECT max(sequence) FROM keyvault_auditevent), sequence, mac FROM keyvault_audithead"
        )
        row = cursor.fetchone()
    newest, sequence, mac = row if row is not None else (None, 0, b"")
    if row is None and AuditEvent.objects.exists():
        raise Tampered("The chain has lost its head.", 1)
    return _Head(sequence, bytes(mac), newest or 0)


# Events --------------------------------------------------------------------------------------------


def events(*, until: int) -> Iterator[Event]:
    """All events in order, up to this sequence."""
    last = 0
    while rows := _page(last, until):
        yield from map(_event, rows)
        last = rows[-1][0]


def _page(after: int, until: int) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_ROWS, [after, until, PAGE])
        return list(cursor.fetchall())


def _event(row: tuple[Any, ...]) -> Event:
    sequence, at, name, kind, actor, team, service, environment, subject, reason, details, request, mac = row
    return Event(
        sequence,
        # SQLite keeps no zone: it is UTC.
        at if at.tzinfo is not None else at.replace(tzinfo=UTC),
        name,
        kind,
        actor,
        _team(team),
        service,
        environment,
        subject,
        reason,
        json.loads(details),
        request,
        bytes(mac),
    )


@lru_cache(maxsize=1024)
def _team(team: uuid.UUID | str | None) -> str:
    """As the chain has it: with dashes, and empty for none."""
    return "" if team is None else str(team if isinstance(team, uuid.UUID) else uuid.UUID(hex=team))


# Checkpoints ---------------------------------------------------------------------------------------


class _Anchors:
    """The checkpoints of one place, and how far the chain has been compared with them.

    What was given up in a restore that a person confirmed is taken out again.
    """

    def __init__(self, place: Path, proof: Proof) -> None:
        self._sequences = array("Q")
        self._macs = bytearray()
        self._at = 0
        own = installation_id()
        for each in checkpoints.read_all(place):
            proof.checkpoints += 1
            if each.installation != own:
                continue
            if each.restored_to is not None:
                self._give_up(each.restored_to, proof)
            if each.sequence and (not self._sequences or self._sequences[-1] <= each.sequence):
                self._sequences.append(each.sequence)
                self._macs += bytes.fromhex(each.mac)

    def _give_up(self, restored_to: int, proof: Proof) -> None:
        lost = 0
        while self._sequences and self._sequences[-1] > restored_to:
            lost = max(lost, self._sequences.pop() - restored_to)
            del self._macs[-MAC_SIZE:]
        proof.given_up += lost

    @property
    def last(self) -> int:
        """The newest event that is anchored here; 0 for none."""
        return self._sequences[-1] if self._sequences else 0

    def compare(self, event: Event) -> None:
        while self._at < len(self._sequences) and self._sequences[self._at] == event.sequence:
            start = self._at * MAC_SIZE
            if self._macs[start : start + MAC_SIZE] != event.mac:
                raise Tampered(f"Event {event.sequence} is not the one of its checkpoint.", event.sequence)
            self._at += 1

    def compare_end(self, last: int) -> None:
        if self.last > last:
            raise Tampered(
                f"The chain ends with event {last}, and a checkpoint knew event {self.last}.", last + 1
            )


# Deliveries ----------------------------------------------------------------------------------------


class _Deliveries:
    """The deliveries in the order of their ids, compared with each seal as it goes by."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._forgotten = retention.forgotten_up_to()
        self._sealed = 0
        self._lines = sealing.lines_after(self._forgotten)
        self._next = next(self._lines, None)

    def compare(self, event: Event) -> None:
        first, last = int(event.details["first"]), int(event.details["last"])
        if first != self._sealed + 1:
            raise Tampered(f"Event {event.sequence} does not seal what comes next.", event.sequence)
        self._sealed = last
        self._proof.seals += 1
        if first <= self._forgotten:
            # Some of it is gone, as the chain tells; what is left of it cannot be compared.
            self._proof.forgotten += int(event.details["count"])
            self._skip(last)
            return
        count, digest = 0, hashlib.sha256()
        while self._next is not None and self._next[0] <= last:
            digest.update(self._next[1].encode())
            count += 1
            self._next = next(self._lines, None)
        if (count, digest.hexdigest()) != (event.details["count"], event.details["sha256"]):
            self._forgotten = retention.forgotten_up_to()
            if first <= self._forgotten:
                self._proof.forgotten += int(event.details["count"])  # they went while we looked
                return
            raise Tampered(
                f"The deliveries {first} to {last} are not those that event {event.sequence} sealed.",
                event.sequence,
            )
        self._proof.deliveries += count

    def _skip(self, last: int) -> None:
        while self._next is not None and self._next[0] <= last:
            self._next = next(self._lines, None)

    def compare_rest(self, now: datetime) -> None:
        """What no seal holds, and was not delivered a moment ago."""
        late = Delivery.objects.filter(id__gt=self._sealed, at__lt=now - ON_ITS_WAY)
        self._proof.unsealed = late.count()
