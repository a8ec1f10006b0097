"""Rows become records. Runs on a thread; every question is asked in bulk.

Each look reads the change counter first and the rows after it: rows may be newer than the counter says, never
older, and an answer is only given while the counter has not moved.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Final, TypeVar

from django.db import connection
from django.db.models import QuerySet

from keyvault import clock, integrity
from keyvault.crypto.envelope import Opener, Sealed
from keyvault.delivery.cache import Found, Held, Kind, News, Noted, Wanted
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
    as_uuid,
)
from keyvault.domain import Split, State
from keyvault.keystore import context_of, installation_id
from keyvault.models import Change, ChangeCounter, ConsumerToken, Grant, Key, KeyVersion, OpenJobs, Quarantine
from keyvault.prepared import prepared

T = TypeVar("T")

MOST_CHANGES: Final = 20_000
ID_BYTES: Final = 16
# A statement is planned once for each length of its list: few lengths, few plans.
_LENGTHS: Final = (1, 8, 64, 512)

# What each kind of record is made of. Every column stands in the change log's triggers; a test compares.
TOKEN: Final = (
    "id",
    "consumer_id",
    "environment_id",
    "digest",
    "hint",
    "cidrs",
    "rate_per_minute",
    "instance_limit",
    "expires_at",
    "revoked_at",
    "mac",
    "consumer__slug",
    "consumer__team_id",
    "environment__slug",
)
GRANT: Final = ("id", "consumer_id", "service_id", "environment_id", "verbs", "mac", "service__slug")
KEY: Final = (
    "id",
    "service_id",
    "environment_id",
    "current_id",
    "pending_id",
    "previous_id",
    "weight",
    "split_salt",
    "canaries",
    "pinned",
    "refresh_seconds",
    "never_shown",
    "mac",
    "environment__slug",
    "service__slug",
    "service__provider__slug",
    "service__provider__base_url",
    "service__provider__auth_header",
    "service__provider__auth_scheme",
    "service__provider__key_affine",
    "service__provider__max_job_age_seconds",
)
VERSION: Final = (
    "id",
    "key_id",
    "number",
    "state",
    "ciphertext",
    "wrapped_dek",
    "kek_kid",
    "fingerprint",
    "token_digest",
    "provider_key_id",
    "withheld_at",
    "compromised_at",
    "revoked_at",
    "destroyed_at",
    "expires_at",
    "mac",
    "key__service_id",
    "key__environment_id",
)
QUARANTINE: Final = ("key_id",)
JOBS: Final = ("id", "version_id", "consumer_id", "instance", "open", "last_to_at")


def look(seen: int, wanted: Wanted) -> News:
    """What changed since ``seen``, and the records that are wanted. Raises ``DatabaseError``."""
    # Asked for on a thread here, so that it is known on the event loop.
    installation_id()
    seq, reset, changes = _changes(seen)
    found = [one for kind in _ORDER if kind in wanted for one in _read(kind, wanted[kind])]
    # A row of the quarantine tells that everything changed; a first look starts with a reset.
    held = _held() if reset or any(change.kind == "all" for change in changes) else None
    return News(seq, clock.now(), reset, changes, found, held)


def _held() -> Held:
    keys = list(Quarantine.objects.values_list(*QUARANTINE))
    return Held(any(key is None for (key,) in keys), frozenset(key.bytes for (key,) in keys if key))


def _changes(seen: int) -> tuple[int, bool, list[Noted]]:
    counter, log = ChangeCounter._meta.db_table, Change._meta.db_table
    # One statement, so that no pruning comes between the counter and the log. Only names of ours in the text.
    statement = (
        f"SELECT c.seq, c.floor, n.kind, n.ref, n.parent FROM {counter} c "  # noqa: S608
        f"LEFT JOIN {log} n ON n.seq > %s LIMIT %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [seen, MOST_CHANGES + 1])
        rows = cursor.fetchall()
    if not rows:
        return 0, seen != 0, []
    seq, floor = int(rows[0][0]), int(rows[0][1])
    # A counter that went back is that of another database, or of a restored one.
    if seen < floor or seq < seen or len(rows) > MOST_CHANGES:
        return seq, True, []
    return seq, False, [Noted(kind, _uuid(ref), _uuid(parent)) for _, _, kind, ref, parent in rows if kind]


@lru_cache(maxsize=4096)
def _shared(value: T) -> T:
    """One object for equal values: many keys have the same consumer, environment, verbs and provider."""
    return value


def _uuid(value: object) -> uuid.UUID | None:
    # SQLite has no type for it and gives back text.
    return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(str(value))


def _read(kind: Kind, names: Iterable[Hashable]) -> Iterator[Found]:
    """A record for every name: ``Absent`` where there is no row."""
    left = set(names)
    for chunk in _chunks(list(left)):
        for found in _READERS[kind](chunk):
            left.discard(found.name)
            yield found
    for name in left:
        yield Found(kind, name, None, Absent())


def _chunks(names: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(names), _LENGTHS[-1]):
        chunk = list(names[start : start + _LENGTHS[-1]])
        length = next(length for length in _LENGTHS if length >= len(chunk))
        yield chunk + chunk[-1:] * (length - len(chunk))


def _tokens(names: Sequence[Any]) -> Iterator[Found]:
    by_id = [as_uuid(name) for name in names if len(name) == ID_BYTES]
    by_digest = [name for name in names if len(name) != ID_BYTES]
    rows = ConsumerToken.objects.order_by().values_list(*TOKEN, named=True)
    for row in rows.filter(id__in=by_id) if by_id else ():
        yield Found("token", row.id.bytes, row.id, _token(row))
    for row in rows.filter(digest__in=by_digest) if by_digest else ():
        yield Found("token", bytes(row.digest), row.id, _token(row))


def _token(row: Any) -> Record:
    if not integrity.intact(ConsumerToken, row):
        return Tampered()
    return TokenRecord(
        id=row.id.bytes,
        consumer_id=_shared(row.consumer_id.bytes),
        consumer=row.consumer__slug,
        team_id=row.consumer__team_id,
        environment_id=_shared(row.environment_id.bytes),
        environment=_shared(row.environment__slug),
        hint=row.hint,
        networks=tuple(ip_network(cidr) for cidr in row.cidrs),
        rate_per_minute=row.rate_per_minute,
        instance_limit=row.instance_limit,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _grants(names: Sequence[Any]) -> Iterator[Found]:
    wanted = set(names)
    rows = Grant.objects.order_by().filter(
        consumer_id__in={as_uuid(consumer) for consumer, _, _ in wanted},
        service__slug__in=[service for _, _, service in names],
    )
    for row in rows.values_list(*GRANT, named=True):
        name = (_shared(row.consumer_id.bytes), _shared(row.environment_id.bytes), row.service__slug)
        if name in wanted:
            yield Found("grant", name, row.id, _grant(row))


def _grant(row: Any) -> Record:
    if not integrity.intact(Grant, row):
        return Tampered()
    return GrantRecord(
        service_id=row.service_id.bytes,
        environment_id=_shared(row.environment_id.bytes),
        verbs=_shared(frozenset(row.verbs)),
    )


@prepared
def _key_rows(service_ids: Collection[uuid.UUID]) -> QuerySet[Key, Any]:
    return Key.objects.order_by().filter(service_id__in=service_ids).values_list(*KEY, named=True)


@prepared
def _version_rows(ids: Collection[uuid.UUID]) -> QuerySet[KeyVersion, Any]:
    return KeyVersion.objects.order_by().filter(id__in=ids).values_list(*VERSION, named=True)


@prepared
def _job_rows(version_ids: Collection[uuid.UUID], instances: Collection[str]) -> QuerySet[OpenJobs, Any]:
    rows = OpenJobs.objects.order_by().filter(version_id__in=version_ids, instance__in=instances)
    return rows.values_list(*JOBS, named=True)


def _keys(names: Sequence[Any]) -> Iterator[Found]:
    wanted = set(names)
    rows = [
        row
        for row in _key_rows([as_uuid(service) for service, _ in names])
        if (row.service_id.bytes, row.environment_id.bytes) in wanted
    ]
    labelled = [id_ for row in rows for id_ in (row.current_id, row.pending_id, row.previous_id) if id_]
    versions = {as_uuid(version.id): version for version in _versions_of(labelled)}
    for row in rows:
        name = (row.service_id.bytes, row.environment_id.bytes)
        yield Found("key", name, row.id, _key(row, versions))


def _key(row: Any, versions: dict[uuid.UUID, VersionRecord]) -> Record:
    if not integrity.intact(Key, row):
        return Tampered()
    split = None
    if row.pending_id is not None:
        split = Split(row.weight or 0, bytes(row.split_salt), frozenset(row.canaries), frozenset(row.pinned))
    return KeyRecord(
        id=row.id.bytes,
        service_id=row.service_id.bytes,
        service=row.service__slug,
        environment_id=_shared(row.environment_id.bytes),
        environment=_shared(row.environment__slug),
        provider=_shared(row.service__provider__slug),
        auth_header=_shared(row.service__provider__auth_header),
        auth_scheme=_shared(row.service__provider__auth_scheme),
        base_url=_shared(row.service__provider__base_url),
        key_affine=row.service__provider__key_affine,
        max_job_age_seconds=row.service__provider__max_job_age_seconds,
        refresh_seconds=row.refresh_seconds,
        split=split,
        # Read a moment after the key: one that is not there has moved the counter too.
        current=versions.get(row.current_id),
        pending=versions.get(row.pending_id),
        previous=versions.get(row.previous_id),
    )


def _versions_of(ids: Sequence[uuid.UUID]) -> Iterator[VersionRecord]:
    for chunk in _chunks(ids):
        for row in _version_rows(chunk):
            yield _version(row)


def _version(row: Any) -> VersionRecord:
    digits = row.fingerprint[:16]
    return VersionRecord(
        id=row.id.bytes,
        number=row.number,
        state=State(row.state),
        fingerprint="-".join(digits[i : i + 4] for i in range(0, len(digits), 4)),
        withheld_at=row.withheld_at,
        expires_at=row.expires_at,
        intact=integrity.intact(KeyVersion, row),
        sealed=_sealed(row),
    )


def _sealed(row: Any) -> Opener | None:
    if row.ciphertext is None or row.wrapped_dek is None:
        return None
    context = context_of(
        service=row.key__service_id, environment=row.key__environment_id, key=row.key_id, version=row.id
    )
    return Opener(Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek), row.kek_kid), context)


def _versions(names: Sequence[Any]) -> Iterator[Found]:
    wanted = set(names)
    rows = KeyVersion.objects.order_by().filter(
        key_id__in=[as_uuid(key) for key, _ in names], number__in=[number for _, number in names]
    )
    for row in rows.values_list(*VERSION, named=True):
        name = (row.key_id.bytes, row.number)
        if name in wanted:
            yield Found("version", name, row.key_id, _version(row))


def _issued(names: Sequence[Any]) -> Iterator[Found]:
    rows = KeyVersion.objects.order_by().filter(token_digest__in=list(names))
    for row in rows.values_list(*VERSION, named=True):
        record: Record = Tampered()
        if integrity.intact(KeyVersion, row):
            record = IssuedRecord(
                service_id=row.key__service_id.bytes,
                environment_id=row.key__environment_id.bytes,
                number=row.number,
            )
        yield Found("issued", bytes(row.token_digest), row.key_id, record)


def _jobs(names: Sequence[Any]) -> Iterator[Found]:
    wanted, now = set(names), clock.now()
    for row in _job_rows([as_uuid(version) for version, _, _ in names], [name for _, _, name in names]):
        name = (row.version_id.bytes, row.consumer_id.bytes, row.instance)
        if name in wanted:
            record = JobsRecord(open=row.open, last_to_at=row.last_to_at, read_at=now)
            yield Found("jobs", name, row.id, record)


def _verifiers(names: Sequence[Any]) -> Iterator[Found]:
    allowed: dict[uuid.UUID, set[bytes]] = {as_uuid(name): set() for name in names}
    rows = Grant.objects.order_by().filter(consumer_id__in=list(allowed))
    for row in rows.values_list(*GRANT, named=True):
        if "verify" in row.verbs and integrity.intact(Grant, row):
            allowed[row.consumer_id].add(row.environment_id.bytes)
    for consumer, environments in allowed.items():
        record = VerifierRecord(environment_ids=frozenset(environments))
        yield Found("verifier", consumer.bytes, consumer, record)


_READERS: Final[dict[Kind, Callable[[Sequence[Any]], Iterator[Found]]]] = {
    "token": _tokens,
    "grant": _grants,
    "key": _keys,
    "version": _versions,
    "issued": _issued,
    "jobs": _jobs,
    "verifier": _verifiers,
}
_ORDER: Final = tuple(_READERS)


# Start-up ------------------------------------------------------------------------------------------


def recently_used(since: datetime, most: int) -> Wanted:
    """Tokens, grants and keys that were delivered lately, for a process that starts with an empty memory."""
    tokens = ConsumerToken.objects.filter(last_used_at__gt=since, revoked_at__isnull=True)
    rows = list(
        Grant.objects.filter(consumer__tokens__in=tokens)
        .order_by()
        .values_list("consumer_id", "environment_id", "service__slug", "service_id")
        .distinct()[:most]
    )
    digests = tokens.order_by("-last_used_at").values_list("digest", flat=True)[:most]
    return {
        "token": {bytes(digest) for digest in digests},
        "grant": {(consumer.bytes, environment.bytes, slug) for consumer, environment, slug, _ in rows},
        "key": {(service.bytes, environment.bytes) for _, environment, _, service in rows},
    }
