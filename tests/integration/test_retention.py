"""What happens to usage reports, deliveries and minutes when they grow old."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models import Sum

from keyvault.models import (
    AuditEvent,
    Delivery,
    LastDelivery,
    LastUse,
    ReportBucket,
    UsageBucket,
    UsageLine,
    UsageReport,
    VerificationBucket,
)
from keyvault.services import retention, sealing, usage
from keyvault.services.usage import LineInput
from rotation import minutes
from rotation.facts import Counts
from tests.integration.furniture import NOW, at_once, furnish, returned
from tests.integration.records import Traffic, traffic

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture
def reader(db: None) -> Traffic:
    made = traffic(furnish())
    made.deliver(NOW - 10 * DAY)
    return made


def report(reader: Traffic, sequence: int, to_at: datetime, *lines: LineInput, received: datetime) -> None:
    told = usage.ReportInput(
        "web-1",
        sequence,
        to_at - 30 * SECOND,
        to_at,
        lines or (LineInput(1, "key", {"ok": 7, "timeout": 1}),),
    )
    assert usage.accept_report(reader.consumer, reader.key, told, now=received)


def folded() -> dict[str, tuple[int, int]]:
    rows = ReportBucket.objects.order_by("minute", "credential").values_list(
        "minute", "credential", "ok", "timeout"
    )
    return {f"{minute:%H:%M} {credential}": (ok, late) for minute, credential, ok, late in rows}


def test_old_reports_become_minutes_and_late_ones_land_in_their_own(reader: Traffic) -> None:
    then = NOW.replace(hour=9, minute=0, second=0) - 5 * DAY
    report(reader, 1, then + 10 * SECOND, received=then + MINUTE)
    report(reader, 2, then + 40 * SECOND, received=then + MINUTE)
    token = LineInput(1, "access_token", {"ok": 2})
    report(reader, 3, then + 70 * SECOND, LineInput(1, "key", {"ok": 1}), token, received=then + 2 * MINUTE)
    report(reader, 4, then + 50 * SECOND, received=then + timedelta(hours=20))
    report(reader, 5, NOW - MINUTE, received=NOW)
    before = minutes.totals([reader.version.id], NOW - 9 * DAY, NOW)

    assert retention.tidy(NOW)["reports"] == 4
    assert folded() == {"09:00 key": (21, 3), "09:01 access_token": (2, 0), "09:01 key": (1, 0)}
    assert UsageReport.objects.get().sequence == 5
    assert UsageLine.objects.count() == 1
    after = minutes.totals([reader.version.id], NOW - 9 * DAY, NOW)
    assert before == after == {reader.version.id: Counts(ok=31, timeout=4)}


def test_folding_again_counts_nothing_twice(reader: Traffic) -> None:
    then = NOW - 5 * DAY
    for sequence in range(5):
        report(reader, sequence, then + sequence * SECOND, received=then + MINUTE)
    while retention.fold_reports(NOW, batch=2):
        pass
    assert retention.tidy(NOW)["reports"] == 0
    assert ReportBucket.objects.aggregate(ok=Sum("ok"), late=Sum("timeout")) == {"ok": 35, "late": 5}


def test_what_may_still_be_judged_stays_as_it_is(reader: Traffic) -> None:
    report(reader, 1, NOW - 3 * DAY, received=NOW - 3 * DAY)
    assert retention.tidy(NOW)["reports"] == 0
    assert retention.tidy(NOW + SECOND)["reports"] == 1


def test_deliveries_go_when_they_are_folded_and_old(reader: Traffic, settings: Any) -> None:
    settings.KEYTURN_DELIVERIES_KEPT = 8
    assert retention.tidy(NOW)["deliveries"] == 0, "not folded yet"
    reader.deliver(NOW - 7 * DAY)
    usage.roll_up()
    assert retention.tidy(NOW)["deliveries"] == 1
    assert Delivery.objects.get().at == NOW - 7 * DAY
    assert UsageBucket.objects.aggregate(n=Sum("deliveries")) == {"n": 2}
    usage.roll_up()
    assert UsageBucket.objects.aggregate(n=Sum("deliveries")) == {"n": 2}


def test_minutes_and_places_go_after_the_second_span_and_the_audit_never(
    reader: Traffic, settings: Any
) -> None:
    then = NOW - 9 * DAY
    reader.deliver(NOW - MINUTE, "web-2")
    reader.verify(then)
    report(reader, 1, then, received=then)
    usage.roll_up()
    sealing.seal(NOW)
    kept = AuditEvent.objects.count()
    assert retention.tidy(NOW) == {"reports": 1, "deliveries": 0, "minutes": 0, "places": 0}
    settings.KEYTURN_USAGE_KEPT = 8
    gone = retention.tidy(NOW)
    assert gone == {"reports": 0, "deliveries": 0, "minutes": 3, "places": 2}
    assert not ReportBucket.objects.exists()
    assert not VerificationBucket.objects.exists()
    assert not LastUse.objects.exists()
    assert LastDelivery.objects.get().instance == "web-2"
    assert UsageBucket.objects.get().instance == "web-2"
    assert AuditEvent.objects.count() == kept


@pytest.mark.django_db(transaction=True)
def test_two_that_fold_at_once_count_everything_once() -> None:
    reader = traffic(furnish())
    reader.deliver(NOW - 10 * DAY)
    for sequence in range(20):
        report(reader, sequence, NOW - 5 * DAY, received=NOW - 5 * DAY)
    returned(at_once(*[lambda: retention.tidy(NOW)] * 2))
    assert ReportBucket.objects.aggregate(ok=Sum("ok")) == {"ok": 140}
