"""Usage reports, and folding what was delivered and verified into minutes."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Count, Max, QuerySet

from keyvault import jobs, readers
from keyvault.exceptions import invalid
from keyvault.models import (
    Consumer,
    Delivery,
    FoldMark,
    Key,
    KeyVersion,
    LastUse,
    OpenJobs,
    UsageLine,
    UsageReport,
    Verification,
)
from keyvault.models.activity import OUTCOMES
from keyvault.prepared import prepared
from keyvault.services.inserting import newest_delivery
from keyvault.upsert import insert, insert_all
from keyvault.verifiers import FORWARD_AUTH

FOLD_BATCH = 20_000
REPORT_MAX_AGE = timedelta(hours=24)
REPORT_MAX_AHEAD = timedelta(minutes=5)
CREDENTIALS = ("key", "access_token")


@dataclass(frozen=True)
class LineInput:
    """Counters of one version in a usage report; ``counts`` maps an outcome to requests >= 0."""

    version: int
    credential: str
    counts: Mapping[str, int]
    jobs_opened: int = 0
    jobs_closed: int = 0


@dataclass(frozen=True)
class ReportInput:
    instance: str
    sequence: int
    from_at: datetime
    to_at: datetime
    lines: Sequence[LineInput] = field(default_factory=tuple)


@prepared
def _numbered(key_id: uuid.UUID, numbers: Collection[int]) -> QuerySet[KeyVersion, Any]:
    rows = KeyVersion.objects.filter(key_id=key_id, number__in=numbers)
    return rows.order_by().values_list("number", "id")


def accept_report(consumer: Consumer, key: Key, report: ReportInput, *, now: datetime) -> bool:
    """Store a usage report once. Returns False for one that is known already.

    A report may only name versions that were delivered to that instance; times may lie 24 h back and
    5 min ahead. Raises ``validation_error``.
    """
    _check_times(report, now)
    versions = _delivered_versions(consumer, key, report)
    with transaction.atomic():
        row = UsageReport(
            consumer=consumer,
            key=key,
            instance=report.instance,
            sequence=report.sequence,
            from_at=report.from_at,
            to_at=report.to_at,
            received_at=now,
        )
        if not insert(row, _REPORTED_ALREADY):
            return False
        insert_all(
            [
                UsageLine(
                    report=row,
                    key=key,
                    version_id=versions[line.version],
                    consumer=consumer,
                    instance=report.instance,
                    received_at=now,
                    to_at=min(report.to_at, now),
                    credential=line.credential,
                    jobs_opened=line.jobs_opened,
                    jobs_closed=line.jobs_closed,
                    **{name: line.counts.get(name, 0) for name in OUTCOMES},
                )
                for line in report.lines
            ]
        )
        _note_use(consumer, report, versions, min(report.to_at, now))
        _count_jobs(consumer, report, versions, min(report.to_at, now))
    return True


_REPORTED_ALREADY: Final = "ON CONFLICT (consumer_id, key_id, instance, sequence) DO NOTHING"
_USED_LATER: Final = """
    ON CONFLICT (version_id, consumer_id, instance) DO UPDATE SET last_at = excluded.last_at
    WHERE excluded.last_at > keyvault_lastuse.last_at
"""
_MORE_JOBS: Final = """
    ON CONFLICT (version_id, consumer_id, instance) DO UPDATE SET
        open = keyvault_openjobs.open + excluded.open,
        last_to_at = CASE WHEN excluded.last_to_at > keyvault_openjobs.last_to_at
                          THEN excluded.last_to_at ELSE keyvault_openjobs.last_to_at END
"""


def _note_use(
    consumer: Consumer, report: ReportInput, versions: Mapping[int, uuid.UUID], to_at: datetime
) -> None:
    used = {versions[line.version] for line in report.lines if any(line.counts.values())}
    for version_id in sorted(used):
        place = {"version_id": version_id, "consumer": consumer, "instance": report.instance}
        insert(LastUse(**place, last_at=to_at), _USED_LATER)


def _count_jobs(
    consumer: Consumer, report: ReportInput, versions: Mapping[int, uuid.UUID], to_at: datetime
) -> None:
    left: dict[uuid.UUID, int] = {}
    for line in report.lines:
        version_id = versions[line.version]
        left[version_id] = left.get(version_id, 0) + line.jobs_opened - line.jobs_closed
    # In one order everywhere, so that two reports wait for each other instead of locking crosswise.
    for version_id, more in sorted(left.items()):
        place = {"version_id": version_id, "consumer": consumer, "instance": report.instance}
        if more:
            insert(OpenJobs(**place, open=more, last_to_at=to_at), _MORE_JOBS)
        elif jobs.have_run(version_id, consumer.id, report.instance, to_at):
            # It says that its jobs still run.
            OpenJobs.objects.filter(**place, open__gt=0, last_to_at__lt=to_at).update(last_to_at=to_at)


def _check_times(report: ReportInput, now: datetime) -> None:
    if report.to_at < report.from_at:
        raise invalid("to", "The report ends before it starts.")
    if report.to_at > now + REPORT_MAX_AHEAD:
        raise invalid("to", "The report lies in the future. Check the clock of this instance.")
    if report.from_at < now - REPORT_MAX_AGE:
        raise invalid("from", "The report is older than 24 hours.")


def _delivered_versions(consumer: Consumer, key: Key, report: ReportInput) -> dict[int, uuid.UUID]:
    """The ids of the versions that a report names, by their numbers."""
    wanted = {line.version for line in report.lines}
    versions: dict[int, uuid.UUID] = dict(_numbered(key.id, wanted))
    seen = readers.versions_given(key.id, versions.values(), consumer.id, report.instance)
    for line in report.lines:
        if versions.get(line.version) not in seen:
            raise invalid("versions", "A report may only name versions that were delivered to this instance.")
    return versions


# Folding -------------------------------------------------------------------------------------------

_MINUTE: Final = {"sqlite": "substr(at, 1, 16) || ':00'", "postgresql": "date_trunc('minute', at)"}
_TO_BUCKETS: Final = """
    INSERT INTO keyvault_usagebucket AS b
        (key_id, minute, version_id, consumer_id, instance, deliveries, last_delivery_at)
    SELECT key_id, {minute}, version_id, consumer_id, instance, COUNT(*), MAX(at)
    FROM keyvault_delivery WHERE id > %s AND id <= %s GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT (key_id, minute, version_id, consumer_id, instance) DO UPDATE SET
        deliveries = b.deliveries + excluded.deliveries,
        last_delivery_at = CASE WHEN excluded.last_delivery_at > b.last_delivery_at
                                THEN excluded.last_delivery_at ELSE b.last_delivery_at END
"""
_TO_LAST: Final = """
    INSERT INTO keyvault_lastdelivery AS b (key_id, version_id, consumer_id, instance, last_at)
    SELECT key_id, version_id, consumer_id, instance, MAX(at)
    FROM keyvault_delivery WHERE id > %s AND id <= %s GROUP BY 1, 2, 3, 4
    ON CONFLICT (version_id, consumer_id, instance) DO UPDATE SET last_at = excluded.last_at
    WHERE excluded.last_at > b.last_at
"""
_TO_TOKENS: Final = """
    UPDATE keyvault_consumertoken SET last_used_at = used.at
    FROM (
        SELECT token_id, MAX(at) AS at
        FROM keyvault_delivery WHERE id > %s AND id <= %s GROUP BY 1
    ) AS used
    WHERE keyvault_consumertoken.id = used.token_id
        AND (last_used_at IS NULL OR last_used_at < used.at)
"""
# PostgreSQL counts what it deletes, in one statement: a row that is committed meanwhile with an id from
# before is left for the next time. SQLite knows no such statement, and no such row.
_VERIFICATIONS_TAKEN: Final = {
    "sqlite": "SELECT * FROM keyvault_verification WHERE id <= %s",
    "postgresql": "DELETE FROM keyvault_verification WHERE id <= %s RETURNING *",
}
_TO_VERIFICATION_BUCKETS: Final = """
    WITH taken AS ({taken})
    INSERT INTO keyvault_verificationbucket AS b (version_id, minute, caller, code, count, last_at)
    SELECT version_id, {minute}, COALESCE(slug, %s), code, SUM(count), MAX(at)
    FROM taken LEFT JOIN keyvault_consumer AS c ON c.id = taken.consumer_id
    WHERE true GROUP BY 1, 2, 3, 4
    ON CONFLICT (version_id, minute, caller, code) DO UPDATE SET
        count = b.count + excluded.count,
        last_at = CASE WHEN excluded.last_at > b.last_at THEN excluded.last_at ELSE b.last_at END
"""


def roll_up(*, batch: int = FOLD_BATCH) -> int:
    """Fold every delivery and verification that is committed by now; returns how many deliveries.

    1. Ask for the newest delivery below which no further one will appear.
    2. Fold batches of the deliveries beyond the mark and move the mark, each batch in one transaction. The
       mark is locked first, so that a twin or a crash folds nothing twice.
    3. Fold batches of verifications and delete them.

    Raises ``OperationalError`` if somebody who inserts does not end.
    """
    newest, folded = newest_delivery(), 0
    while n := _fold_deliveries(newest, batch):
        folded += n
    newest = Verification.objects.aggregate(last=Max("id"))["last"] or 0
    while _fold_verifications(newest, batch):
        pass
    return folded


def lock_mark() -> FoldMark:
    """The mark, locked: whoever folds has it."""
    return FoldMark.objects.select_for_update().get_or_create(id=1)[0]


@transaction.atomic
def _fold_deliveries(newest: int, batch: int) -> int:
    """Fold one batch up to the id ``newest``; returns how many."""
    mark = lock_mark()
    rows = Delivery.objects.filter(id__gt=mark.delivery_id, id__lte=newest).order_by("id")[:batch]
    chosen = rows.aggregate(n=Count("id"), last=Max("id"))
    if chosen["n"]:
        with connection.cursor() as cursor:
            for statement in (_TO_BUCKETS, _TO_LAST, _TO_TOKENS):
                text = statement.format(minute=_MINUTE[connection.vendor])
                cursor.execute(text, [mark.delivery_id, chosen["last"]])
        FoldMark.objects.filter(pk=mark.pk).update(delivery_id=chosen["last"])
    return int(chosen["n"])


@transaction.atomic
def _fold_verifications(newest: int, batch: int) -> bool:
    """Fold and delete one batch up to the id ``newest``; returns whether there was any."""
    lock_mark()
    rows = Verification.objects.filter(id__lte=newest).order_by("id")[:batch]
    last = rows.aggregate(last=Max("id"))["last"]
    if last is None:
        return False
    vendor = connection.vendor
    text = _TO_VERIFICATION_BUCKETS.format(taken=_VERIFICATIONS_TAKEN[vendor], minute=_MINUTE[vendor])
    with connection.cursor() as cursor:
        cursor.execute(text, [last, FORWARD_AUTH])
    if vendor == "sqlite":
        Verification.objects.filter(id__lte=last).delete()
    return True
