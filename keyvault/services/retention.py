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

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import (
    AuditEvent,
    Delivery,
    LastDelivery,
    LastUse,
    OpenJobs,
    ReportBucket,
    SealMark,
    Seat,
    UsageBucket,
    UsageReport,
    VerificationBucket,
)
from keyvault.models.activity import OUTCOMES
from keyvault.services import sealing
from keyvault.services.usage import lock_mark

# Reports are accepted for a day, and judged in windows of at most half a day: older ones are only summed up.
EXACT: Final = timedelta(days=3)
BATCH: Final = 2_000
FORGOTTEN: Final = "deliveries:forgotten"
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
    (Seat, "last_at"),
)


def tidy(now: datetime) -> dict[str, int]:
    """Fold and forget what is due; returns how many rows of each sort went."""
    sealing.seal(now)  # what is not sealed is not forgotten
    gone = {"reports": _all(partial(fold_reports, now))}
    kept = now - timedelta(days=settings.KEYTURN_USAGE_KEPT)
    deliveries = now - timedelta(days=settings.KEYTURN_DELIVERIES_KEPT)
    gone["deliveries"] = _forget_deliveries(deliveries, now)
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


def _forget_deliveries(before: datetime, now: datetime) -> int:
    """Only what is folded and sealed. The chain tells up to where before the first of them goes."""
    last = _announce(before, now)
    oldest = Delivery.objects.filter(id__lte=last).order_by("id").values_list("id", flat=True)
    return _all(lambda: _delete(Delivery, list(oldest[:BATCH])))


@transaction.atomic
def _announce(before: datetime, now: datetime) -> int:
    """Tell up to which id deliveries are forgotten, if there are any more of them; returns that id."""
    already = forgotten_up_to()
    safe = min(lock_mark().delivery_id, SealMark.objects.values_list("delivery_id", flat=True).first() or 0)
    # Rows come in the order of time, so the first that is young enough ends it.
    rows = Delivery.objects.filter(id__gt=already, id__lte=safe).order_by("id")
    young = rows.filter(at__gte=before).values_list("id", flat=True).first()
    last = safe if young is None else young - 1
    if not rows.filter(id__lte=last).exists():
        return already
    audit.record(FORGOTTEN, actor=SYSTEM, now=now, last=last)
    return last


def forgotten_up_to() -> int:
    """The highest id of a delivery that was forgotten, as the chain tells; 0 for none."""
    told = AuditEvent.objects.filter(name=FORGOTTEN).order_by("-sequence").first()
    return 0 if told is None else int(told.details["last"])


def _forget_minutes(model: type[models.Model], before: datetime) -> int:
    head = model._default_manager.order_by("id").values_list("id", "minute")[:BATCH]
    return _delete(model, [pk for pk, minute in head if minute < before])


def _forget_places(model: type[models.Model], name: str, before: datetime) -> int:
    """One row for each place where a version was used; it is written again and again, so it has no order."""
    old = model._default_manager.filter(**{f"{name}__lt": before})
    return _delete(model, list(old.values_list("pk", flat=True)[:BATCH]))


def _delete(model: type[models.Model], ids: list[Any]) -> int:
    return model._default_manager.filter(pk__in=ids).delete()[0] if ids else 0
