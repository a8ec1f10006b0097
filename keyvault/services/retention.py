"""What is kept for how long. Nightly: usage reports become minutes, and what is too old is forgotten.

Audit events, versions and rotations are never forgotten. Everything here goes in batches of one transaction
each, oldest first, so that a crash or a second run in between does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.db import connection, models, transaction

from keyvault.models import (
    Delivery,
    LastDelivery,
    LastUse,
    OpenJobs,
    ReportBucket,
    UsageBucket,
    UsageReport,
    VerificationBucket,
)
from keyvault.models.activity import OUTCOMES
from keyvault.services.usage import lock_mark

# Reports are accepted for a day, and judged in windows of at most half a day: older ones are only summed up.
EXACT: Final = timedelta(days=3)
BATCH: Final = 2_000
_MINUTE: Final = {"sqlite": "substr(to_at, 1, 16) || ':00'", "postgresql": "date_trunc('minute', to_at)"}
_OLD: Final = "SELECT id FROM keyvault_usagereport WHERE received_at < %s ORDER BY received_at, id LIMIT %s"
_TO_REPORT_BUCKETS: Final = """
    INSERT INTO keyvault_reportbucket AS b
        (key_id, version_id, consumer_id, instance, credential, minute, {names})
    SELECT key_id, version_id, consumer_id, instance, credential, {minute}, {sums}
    FROM keyvault_usageline WHERE report_id IN ({old}) GROUP BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (version_id, minute, consumer_id, instance, credential) DO UPDATE SET {added}
"""


_BY_MINUTE: Final[tuple[type[models.Model], ...]] = (UsageBucket, ReportBucket, VerificationBucket)
_BY_PLACE: Final[tuple[tuple[type[models.Model], str], ...]] = (
    (LastDelivery, "last_at"),
    (LastUse, "last_at"),
    (OpenJobs, "last_to_at"),
)


def tidy(now: datetime) -> dict[str, int]:
    """Fold and forget what is due; returns how many rows of each sort went."""
    gone = {"reports": _all(partial(fold_reports, now))}
    kept = now - timedelta(days=settings.KEYTURN_USAGE_KEPT)
    deliveries = now - timedelta(days=settings.KEYTURN_DELIVERIES_KEPT)
    gone["deliveries"] = _all(partial(_forget_deliveries, deliveries))
    gone["minutes"] = sum(_all(partial(_forget_minutes, model, kept)) for model in _BY_MINUTE)
    gone["places"] = sum(_all(partial(_forget_places, model, name, kept)) for model, name in _BY_PLACE)
    return gone


def _all(step: Callable[[], int]) -> int:
    total = 0
    while n := step():
        total += n
    return total


@transaction.atomic
def fold_reports(now: datetime, *, batch: int = BATCH) -> int:
    """Sum one batch of old reports up into the minutes in which they ended, and delete it; returns its size.

    Whoever folds holds the lock of the mark, and no report that old comes in any more: each is folded once.
    """
    lock_mark()
    choice = [connection.ops.adapt_datetimefield_value(now - EXACT), batch]
    text = _TO_REPORT_BUCKETS.format(
        names=", ".join(OUTCOMES),
        minute=_MINUTE[connection.vendor],
        sums=", ".join(f"SUM({name})" for name in OUTCOMES),
        old=_OLD,
        added=", ".join(f"{name} = b.{name} + excluded.{name}" for name in OUTCOMES),
    )
    old = UsageReport.objects.filter(received_at__lt=now - EXACT).order_by("received_at", "id")
    ids = list(old.values_list("id", flat=True)[:batch])
    if ids:
        with connection.cursor() as cursor:
            cursor.execute(text, choice)
        UsageReport.objects.filter(id__in=ids).delete()  # and their lines
    return len(ids)


def _forget_deliveries(before: datetime) -> int:
    """Only what is folded. Rows come in the order of time, so the oldest are at the start."""
    with transaction.atomic():
        mark = lock_mark()
        head = Delivery.objects.filter(id__lte=mark.delivery_id).order_by("id").values_list("id", "at")
        return _delete(Delivery, [pk for pk, at in head[:BATCH] if at < before])


def _forget_minutes(model: type[models.Model], before: datetime) -> int:
    head = model._default_manager.order_by("id").values_list("id", "minute")[:BATCH]
    return _delete(model, [pk for pk, minute in head if minute < before])


def _forget_places(model: type[models.Model], name: str, before: datetime) -> int:
    """One row for each place where a version was used; it is written again and again, so it has no order."""
    old = model._default_manager.filter(**{f"{name}__lt": before})
    return _delete(model, list(old.values_list("pk", flat=True)[:BATCH]))


def _delete(model: type[models.Model], ids: list[Any]) -> int:
    return model._default_manager.filter(pk__in=ids).delete()[0] if ids else 0
