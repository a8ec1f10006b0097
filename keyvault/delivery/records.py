"""What delivery knows, as values: one record for each row that it decides by.

A record is never changed. When its row does, the cache marks it stale, and every decision made with it that
has not been answered yet is made again. Ids are the 16 bytes of a UUID: they are hashed and compared at every
turn, which a UUID does slowly.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from keyvault.crypto.envelope import Opener
from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.keyring import KekProvider
from keyvault.crypto.secret import Secret
from keyvault.domain import Label, Split, State


def as_uuid(raw: bytes) -> uuid.UUID:
    """The id as the models have it."""
    return uuid.UUID(bytes=raw)


class Dependent:
    """Something made from records: ``stale`` as soon as one of them is, ``asked`` in place of them."""

    __slots__ = ("asked", "stale")

    def __init__(self) -> None:
        self.stale = False
        self.asked = False


@dataclass(slots=True, eq=False)
class Record:
    """``stale`` once the cache no longer vouches for it; ``ref`` is the row that makes it so.

    ``asked``: it was looked at since the cache last thought of making room.
    """

    stale: bool = field(default=False, init=False, repr=False)
    asked: bool = field(default=False, init=False, repr=False)
    ref: uuid.UUID | None = field(default=None, init=False, repr=False)
    # Made when there is the first one: most records never have any.
    _dependents: set[Dependent] | None = field(default=None, init=False, repr=False)

    def outdate(self) -> None:
        self.stale = True
        for dependent in self._dependents or ():
            dependent.stale = True

    def was_asked(self) -> bool:
        """Whether it was asked for since this was last called."""
        asked, self.asked = self.asked, False
        for dependent in self._dependents or ():
            asked = asked or dependent.asked
            dependent.asked = False
        return asked

    def add(self, dependent: Dependent) -> None:
        if self._dependents is None:
            self._dependents = set()
        self._dependents.add(dependent)

    def remove(self, dependent: Dependent) -> None:
        if self._dependents is not None:
            self._dependents.discard(dependent)


class Absent(Record):
    """There is no such row. Known as well as any other fact, and as quickly outdated."""

    __slots__ = ()


class Tampered(Record):
    """The row's MAC does not hold: whoever needs it gets ``integrity_error``."""

    __slots__ = ()


@dataclass(slots=True, eq=False, kw_only=True)
class TokenRecord(Record):
    """A consumer token and whom it stands for."""

    id: bytes
    consumer_id: bytes
    consumer: str
    team_id: uuid.UUID
    environment_id: bytes
    environment: str
    hint: str
    networks: tuple[IPv4Network | IPv6Network, ...]
    rate_per_minute: int
    instance_limit: int | None
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(slots=True, eq=False, kw_only=True)
class GrantRecord(Record):
    service_id: bytes
    environment_id: bytes
    verbs: frozenset[str]
    key: KeyRecord | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class VersionRecord(Record):
    """One version, sealed. ``intact`` False: its row MAC does not hold, so it must not be used."""

    id: bytes
    number: int
    state: State
    fingerprint: str
    withheld_at: datetime | None
    expires_at: datetime | None
    intact: bool
    sealed: Opener | None = field(repr=False)
    # What answering has written already: the ETag, and the JSON before and after the secret.
    parts: tuple[bytes, bytes, bytes] | None = field(default=None, init=False, repr=False)

    @property
    def deliverable(self) -> bool:
        """Whether consumers may be given it. Raises ``IntegrityError`` for a row that somebody changed."""
        if not self.intact:
            raise IntegrityError
        return self.state is State.ACTIVE and self.withheld_at is None

    def open(self, environment: str, keks: KekProvider) -> Secret:
        """The secret. Raises ``IntegrityError`` or ``KeyServiceUnavailable``."""
        if self.sealed is None:
            raise IntegrityError
        return self.sealed.open(environment, keks)


@dataclass(slots=True, eq=False, kw_only=True)
class KeyRecord(Record):
    """A key with the versions that carry its labels, its service and its provider."""

    id: bytes
    service_id: bytes
    service: str
    environment_id: bytes
    environment: str
    provider: str
    auth_header: str
    auth_scheme: str
    base_url: str
    key_affine: bool
    max_job_age_seconds: int
    refresh_seconds: int
    split: Split | None
    current: VersionRecord | None
    pending: VersionRecord | None
    previous: VersionRecord | None

    @property
    def weight(self) -> int | None:
        return None if self.split is None else self.split.weight

    @property
    def changing(self) -> bool:
        """Whether a rotation moves its labels: another version may answer soon."""
        return self.split is not None or self.previous is not None

    def labelled(self, label: Label) -> VersionRecord | None:
        """The version that carries a label."""
        if label is Label.CURRENT:
            return self.current
        return self.pending if label is Label.PENDING else self.previous

    def label_of(self, number: int) -> Label | None:
        """The label that a version carries, by its number."""
        held = ((label, self.labelled(label)) for label in Label)
        return next((label for label, version in held if version and version.number == number), None)


@dataclass(slots=True, eq=False, kw_only=True)
class IssuedRecord(Record):
    """Where a key that we issued stands. Neither its key nor its number ever changes."""

    service_id: bytes
    environment_id: bytes
    number: int


@dataclass(slots=True, eq=False, kw_only=True)
class JobsRecord(Record):
    """Jobs that one instance has open under a version, as of ``read_at``."""

    open: int
    last_to_at: datetime
    read_at: datetime


@dataclass(slots=True, eq=False, kw_only=True)
class VerifierRecord(Record):
    """The environments in which a consumer may verify some key."""

    environment_ids: frozenset[bytes]
