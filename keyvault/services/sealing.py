"""Deliveries become part of the audit chain: ranges of them are sealed into it, each within a second.

A delivery is durable before its answer leaves, but a lock for each would be slow. So it is inserted alone,
and an event of the chain holds the digest of everything that was inserted since the last such event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

from django.db import connection, transaction

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import Delivery, SealMark
from keyvault.services.inserting import newest_delivery

EVENT: Final = "deliveries:sealed"
BATCH: Final = 20_000  # deliveries in one seal

# One delivery as text. Fields of any length come with it, so that no two rows give the same text.
_SECONDS: Final = {
    "sqlite": "CAST(strftime('%%s', substr(at, 1, 19)) AS INTEGER)",
    "postgresql": "floor(extract(epoch FROM at))::bigint",
}
_MICROSECONDS: Final = {
    "sqlite": "CAST(substr(substr(at, 21) || '000000', 1, 6) AS INTEGER)",
    "postgresql": "extract(microseconds FROM at)::bigint %% 1000000",
}
_ID: Final = {"sqlite": "{0}", "postgresql": "replace({0}::text, '-', '')"}
_IDS: Final = ("key_id", "version_id", "consumer_id", "token_id")
_TEXTS: Final = ("instance", "label", "credential", "request_id")
_RANGE: Final = "FROM keyvault_delivery WHERE id BETWEEN %s AND %s"


class Digest(NamedTuple):
    """How many deliveries a range of ids holds, and their SHA-256 in hex."""

    rows: int
    sha256: str


def seal(now: datetime) -> int:
    """Seal every delivery that is committed by now; returns how many. Any number of processes may do so."""
    newest, sealed = newest_delivery(), 0
    SealMark.objects.get_or_create(id=1)
    while (n := _seal_range(newest, now)) is not None:
        sealed += n
    return sealed


@transaction.atomic
def _seal_range(newest: int, now: datetime) -> int | None:
    """Seal the next range up to the id ``newest``. None: nothing is left, or another process is at it."""
    skip = connection.vendor == "postgresql"
    mark = SealMark.objects.select_for_update(skip_locked=skip).filter(id=1).first()
    if mark is None or newest <= mark.delivery_id:
        return None
    rows = Delivery.objects.filter(id__gt=mark.delivery_id, id__lte=newest).order_by("id")
    if not rows.exists():
        return None
    ids = rows.values_list("id", flat=True)[BATCH - 1 : BATCH]
    first, last = mark.delivery_id + 1, next(iter(ids), newest)
    found = digest_of(first, last)
    SealMark.objects.filter(pk=mark.pk).update(delivery_id=last)
    audit.record(EVENT, actor=SYSTEM, now=now, first=first, last=last, count=found.rows, sha256=found.sha256)
    return found.rows


def digest_of(first: int, last: int) -> Digest:
    """The digest of the deliveries with these ids, as they stand in the database now."""
    line = _line(connection.vendor)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # In the database: the rows need not travel.
            cursor.execute(
                "SELECT count(*), encode(sha256(convert_to("
                f"coalesce(string_agg({line}, '' ORDER BY id), ''), 'UTF8')), 'hex') {_RANGE}",
                [first, last],
            )
            return Digest(*cursor.fetchone())
        count, digest = 0, hashlib.sha256()
        cursor.execute(f"SELECT {line} {_RANGE} ORDER BY id", [first, last])
        for (text,) in cursor:
            count += 1
            digest.update(text.encode())
        return Digest(count, digest.hexdigest())


def lines_after(last: int) -> Iterator[tuple[int, str]]:
    """Id and text of every delivery beyond an id, in order. ``digest_of`` digests these texts, joined."""
    statement = (
        f"SELECT id, {_line(connection.vendor)} FROM keyvault_delivery "  # noqa: S608 - text of ours
        "WHERE id > %s ORDER BY id LIMIT %s"
    )
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statement, [last, BATCH])
            rows = cursor.fetchall()
        if not rows:
            return
        yield from rows
        last = rows[-1][0]


def _line(vendor: str) -> str:
    parts = [
        "id",
        f"({_SECONDS[vendor]} * 1000000 + {_MICROSECONDS[vendor]})",
        "status",
        *(_ID[vendor].format(name) for name in _IDS),
        *(f"length({name}) || ':' || {name}" for name in _TEXTS),
    ]
    return " || '|' || ".join(parts) + " || ';'"
