"""What this process knows, and up to which change. Used on the event loop only, so without locks.

``seen`` is the number of the last configuration change that is applied. A decision is made through a
``View``, which notes every record it looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.keyring import Keys
from keyvault.delivery.records import (
    Absent,
    GrantRecord,
    IssuedRecord,
    JobsRecord,
    KeyRecord,
    Record,
    Tampered,
    TokenRecord,
    VerifierRecord,
    VersionRecord,
)
from keyvault.errors import CODES
from keyvault.exceptions import KeyturnError

QUARANTINED: Final = CODES["quarantined"][1]

Kind = Literal["token", "grant", "key", "version", "issued", "jobs", "verifier"]
Wanted = dict[Kind, set[Hashable]]
R = TypeVar("R", bound=Record)


class Missing(Exception):
    """A decision needs something that is not in memory."""

    def __init__(self, kind: Kind, name: Hashable) -> None:
        super().__init__(kind)
        self.kind = kind
        self.name = name


class Found(NamedTuple):
    """One record that was read: ``name`` is what it is looked up by, ``ref`` the row that makes it stale."""

    kind: Kind
    name: Hashable
    ref: uuid.UUID | None
    record: Record


class Noted(NamedTuple):
    """One entry of the change log (see ``keyvault.models.changes``)."""

    kind: str
    ref: uuid.UUID | None
    parent: uuid.UUID | None


class Held(NamedTuple):
    """What is held back since a restore: keys by their ids, or everything."""

    everything: bool
    keys: frozenset[bytes]


NOTHING_HELD: Final = Held(False, frozenset())


@dataclass(frozen=True, slots=True)
class News:
    """What one look at the database brought. ``reset``: the log does not reach back to what we had seen."""

    seq: int
    now: datetime
    reset: bool = False
    changes: Sequence[Noted] = ()
    found: Sequence[Found] = field(default=())
    held: Held | None = None  # None: as before


class Table(Generic[R]):
    """Records of one kind by name; old ones that nobody asked for lately make room for others.

    The oldest goes, unless it was asked for since it came or was last spared: then it is spared once more.
    Reading moves nothing, which a list by last use would do at every look.
    """

    def __init__(self, kind: Kind, capacity: int) -> None:
        self.kind: Kind = kind
        self._capacity = capacity
        self._rows: dict[Hashable, Record] = {}
        self._names: dict[uuid.UUID, tuple[Hashable, ...]] = {}
        self._absent: set[Hashable] = set()
        self._lost: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._rows

    def get(self, name: Hashable) -> Record | None:
        record = self._rows.get(name)
        if record is not None:
            record.asked = True
        return record

    def put(self, found: Found) -> None:
        name, ref, record = found.name, found.ref, found.record
        self._remove(name)
        record.ref = ref
        self._rows[name] = record
        if ref is not None:
            self._names[ref] = (*self._names.get(ref, ()), name)
        if isinstance(record, Absent):
            self._absent.add(name)
        while len(self._rows) > self._capacity:
            self._make_room(record)

    def _make_room(self, newest: Record) -> None:
        name, record = next(iter(self._rows.items()))
        if record is newest or record.was_asked():
            self._rows[name] = self._rows.pop(name)
        else:
            self._remove(name)

    def row_changed(self, ref: uuid.UUID) -> None:
        """Forget what was read from this row, and what was not there: it may be this row now."""
        for name in self._names.get(ref, ()):
            self._note_lost(name)
            self._remove(name)
        for name in tuple(self._absent):
            self._remove(name)

    def take_lost(self) -> set[Hashable]:
        """The names that were asked for, went with a change since this was last called, and are not back."""
        lost, self._lost = self._lost, set()
        # A set less a dictionary's keys would look at every key of the dictionary.
        return {name for name in lost if name not in self._rows}

    def _note_lost(self, name: Hashable) -> None:
        record = self._rows[name]
        # What was not there is not waited for: whoever guesses names must not make work of every change.
        if record.was_asked() and not isinstance(record, Absent):
            self._lost.add(name)

    def clear(self) -> None:
        for name, record in self._rows.items():
            self._note_lost(name)
            record.outdate()
        self._rows.clear()
        self._names.clear()
        self._absent.clear()

    def _remove(self, name: Hashable) -> None:
        record = self._rows.pop(name, None)
        if record is None:
            return
        # Also where it only made room: nobody would tell those who still hold it of its next change.
        record.outdate()
        self._absent.discard(name)
        if record.ref is not None:
            left = tuple(other for other in self._names[record.ref] if other != name)
            if left:
                self._names[record.ref] = left
            else:
                del self._names[record.ref]


class Cache:
    """``capacity`` is the most keys that are kept; there is room for twice as many grants and tokens."""

    def __init__(self, capacity: int) -> None:
        self.seen = -1  # nothing: the first look at the database starts from scratch
        self.held = NOTHING_HELD
        self.tokens: Table[TokenRecord] = Table("token", 2 * capacity)
        self.grants: Table[GrantRecord] = Table("grant", 2 * capacity)
        self.keys: Table[KeyRecord] = Table("key", capacity)
        self.versions: Table[VersionRecord] = Table("version", capacity)
        self.issued: Table[IssuedRecord] = Table("issued", 2 * capacity)
        self.jobs: Table[JobsRecord] = Table("jobs", capacity)
        self.verifiers: Table[VerifierRecord] = Table("verifier", capacity)
        self._tables: dict[str, Table[Any]] = {
            table.kind: table
            for table in (
                self.tokens,
                self.grants,
                self.keys,
                self.versions,
                self.issued,
                self.jobs,
                self.verifiers,
            )
        }

    def apply(self, news: News) -> bool:
        """Take over what was read. Returns whether anything known may have become stale."""
        moved = news.seq != self.seen
        if news.reset or any(change.kind == "all" for change in news.changes):
            self.clear()
        else:
            self._note(news.changes)
        self.seen = news.seq
        if news.held is not None:
            # Whoever changed it made everything stale with it.
            self.held = news.held
        for found in news.found:
            self._tables[found.kind].put(found)
        return moved

    def clear(self) -> None:
        for table in self._tables.values():
            table.clear()

    def take_lost(self) -> Wanted:
        """What was asked for and has been forgotten because it changed: it will be asked for again."""
        lost = ((table.kind, table.take_lost()) for table in self._tables.values())
        return {kind: names for kind, names in lost if names}

    def _note(self, changes: Iterable[Noted]) -> None:
        for kind, ref, parent in set(changes):
            if ref is None:
                continue
            self._tables[kind].row_changed(ref)
            if kind == "key":
                self.versions.row_changed(ref)
                self.issued.row_changed(ref)
            elif kind == "grant" and parent is not None:
                self.verifiers.row_changed(parent)


class View:
    """The cache as one decision sees it. ``used`` is everything that the decision rests on."""

    __slots__ = ("_cache", "keys", "now", "used")

    def __init__(self, cache: Cache, keys: Keys, now: datetime) -> None:
        self._cache = cache
        self.keys = keys
        self.now = now
        self.used: list[Record] = []

    def knows_token(self, name: bytes) -> bool:
        return name in self._cache.tokens

    def knows_issued(self, name: bytes) -> bool:
        return name in self._cache.issued

    def token(self, name: bytes) -> TokenRecord | None:
        """By its keyed digest (32 bytes), or by its id (16). Raises ``quarantined`` where all is held."""
        found = self._look(self._cache.tokens, name)
        if self._cache.held.everything:
            raise KeyturnError("quarantined", QUARANTINED)
        return found

    def refuse_held(self, key: KeyRecord) -> None:
        """Raise ``quarantined`` for a key whose value may have ended since the backup that was put back."""
        held = self._cache.held
        if held.everything or key.id in held.keys:
            raise KeyturnError("quarantined", QUARANTINED)

    def grant(self, consumer: bytes, environment: bytes, service: str) -> GrantRecord | None:
        return self._look(self._cache.grants, (consumer, environment, service))

    def key(self, service: bytes, environment: bytes) -> KeyRecord | None:
        return self._look(self._cache.keys, (service, environment))

    def key_of(self, grant: GrantRecord) -> KeyRecord | None:
        """The key that a grant is for. The grant remembers it for as long as it is current."""
        key = grant.key
        if key is None or key.stale:
            key = grant.key = self.key(grant.service_id, grant.environment_id)
        else:
            key.asked = True
            self.used.append(key)
        return key

    def version(self, key: bytes, number: int) -> VersionRecord | None:
        return self._look(self._cache.versions, (key, number))

    def issued(self, digest: bytes) -> IssuedRecord | None:
        return self._look(self._cache.issued, digest)

    def jobs(self, version: bytes, consumer: bytes, instance: str) -> JobsRecord | None:
        return self._look(self._cache.jobs, (version, consumer, instance))

    def verifier(self, consumer: bytes) -> VerifierRecord | None:
        return self._look(self._cache.verifiers, consumer)

    def _look(self, table: Table[R], name: Hashable) -> R | None:
        record = table.get(name)
        if record is None:
            raise Missing(table.kind, name)
        self.used.append(record)
        kind = type(record)
        if kind is Absent:
            return None
        if kind is Tampered:
            raise IntegrityError
        return record  # type: ignore[return-value]  # a Table gives out what was put in
