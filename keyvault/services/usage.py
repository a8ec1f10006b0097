"""Deliveries and usage reports: recording them, folding them into minutes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Count, F, Max, QuerySet
from django.db.models.functions import Greatest, TruncMinute

from keyvault.exceptions import invalid
from keyvault.models import (
    Consumer,
    ConsumerToken,
    Delivery,
    Key,
    KeyVersion,
    RateWindow,
    UsageBucket,
    UsageLine,
    UsageReport,
)
from keyvault.models.activity import OUTCOMES

FOLD_DELAY = timedelta(seconds=5)
REPORT_MAX_AGE = timedelta(hours=24)
REPORT_MAX_AHEAD = timedelta(minutes=5)
RATE_WINDOWS_KEPT = timedelta(minutes=10)
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


def record_delivery(
    *,
    key: Key,
    version: KeyVersion,
    token: ConsumerToken,
    instance: str,
    label: str,
    credential: str,
    status: int,
    request_id: str,
    now: datetime,
) -> None:
    """Write down one answer. When this returns outside a transaction the record is durable."""
    Delivery.objects.create(
        at=now,
        key=key,
        version=version,
        consumer_id=token.consumer_id,
        token=token,
        instance=instance,
        label=label,
        credential=credential,
        status=status,
        request_id=request_id,
    )


def hit(subject: str, *, now: datetime) -> int:
    """Count one request of ``subject`` in the current minute; returns the exact count, this one included."""
    minute = now.replace(second=0, microsecond=0)
    table = RateWindow._meta.db_table
    # Only constants of ours are put into the text; values travel as parameters.
    statement = (
        f"INSERT INTO {table} (subject, minute, count) VALUES (%s, %s, 1) "  # noqa: S608
        f"ON CONFLICT (subject, minute) DO UPDATE SET count = {table}.count + 1 RETURNING count"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [subject, connection.ops.adapt_datetimefield_value(minute)])
        row = cursor.fetchone()
    return int(row[0])


def accept_report(consumer: Consumer, key: Key, report: ReportInput, *, now: datetime) -> bool:
    """Store a usage report once. Returns False for one that is known already.

    A report may only name versions that were delivered to that instance; times may lie 24 h back and
    5 min ahead. Raises ``validation_error``.
    """
    _check_times(report, now)
    versions = _delivered_versions(consumer, key, report)
    with transaction.atomic():
        row, created = UsageReport.objects.get_or_create(
            consumer=consumer,
            key=key,
            instance=report.instance,
            sequence=report.sequence,
            defaults={"from_at": report.from_at, "to_at": report.to_at, "received_at": now},
        )
        if not created:
            return False
        UsageLine.objects.bulk_create(
            UsageLine(
                report=row,
                key=key,
                version=versions[line.version],
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
        )
    return True


def _check_times(report: ReportInput, now: datetime) -> None:
    if report.to_at < report.from_at:
        raise invalid("to", "The report ends before it starts.")
    if report.to_at > now + REPORT_MAX_AHEAD:
        raise invalid("to", "The report lies in the future. Check the clock of this instance.")
    if report.from_at < now - REPORT_MAX_AGE:
        raise invalid("from", "The report is older than 24 hours.")


def _delivered_versions(consumer: Consumer, key: Key, report: ReportInput) -> dict[int, KeyVersion]:
    wanted = {line.version for line in report.lines}
    versions = {version.number: version for version in key.versions.filter(number__in=wanted)}
    ids = [version.id for version in versions.values()]
    seen = _delivered_to(Delivery.objects.filter(version_id__in=ids), consumer, report.instance)
    if len(seen) < len(ids):
        seen |= _delivered_to(UsageBucket.objects.filter(version_id__in=ids), consumer, report.instance)
    for line in report.lines:
        version = versions.get(line.version)
        if version is None or version.id not in seen:
            raise invalid("versions", "A report may only name versions that were delivered to this instance.")
    return versions


def _delivered_to(
    rows: QuerySet[Delivery] | QuerySet[UsageBucket], consumer: Consumer, instance: str
) -> set[uuid.UUID]:
    mine = rows.filter(consumer=consumer, instance=instance)
    return set(mine.order_by().values_list("version_id", flat=True).distinct())


@transaction.atomic
def roll_up(*, now: datetime, batch: int = 20_000) -> int:
    """Fold recorded deliveries into minute buckets; returns how many. A crash or a twin folds none twice."""
    ids = list(
        Delivery.objects.select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)
        .filter(folded=False, at__lt=now - FOLD_DELAY)
        .order_by("id")
        .values_list("id", flat=True)[:batch]
    )
    if not ids:
        return 0
    rows = Delivery.objects.filter(id__in=ids)
    groups = rows.annotate(minute=TruncMinute("at")).values(
        "key_id", "version_id", "consumer_id", "instance", "minute"
    )
    # In one order everywhere, so that two at once wait for each other instead of locking crosswise.
    for group in groups.annotate(n=Count("id"), last=Max("at")).order_by(
        "version_id", "consumer_id", "instance", "minute"
    ):
        n, last = group["n"], group["last"]
        place = {name: group[name] for name in ("version_id", "consumer_id", "instance", "minute")}
        bucket, created = UsageBucket.objects.get_or_create(
            **place, defaults={"key_id": group["key_id"], "deliveries": n, "last_delivery_at": last}
        )
        if not created:
            UsageBucket.objects.filter(pk=bucket.pk).update(
                deliveries=F("deliveries") + n, last_delivery_at=Greatest(F("last_delivery_at"), last)
            )
    rows.update(folded=True)
    RateWindow.objects.filter(minute__lt=now - RATE_WINDOWS_KEPT).delete()
    return len(ids)
