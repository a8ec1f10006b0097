"""The tables behind delivery: what is in them when the migration comes, and which index answers what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Sum
from django.test import Client

from keyvault import jobs, readers, verifiers
from keyvault.admin import COUNTED, FirstPages
from keyvault.models import (
    Delivery,
    FoldMark,
    KeyVersion,
    LastDelivery,
    OpenJobs,
    UsageBucket,
    UsageLine,
    User,
    Verification,
)
from keyvault.services import usage
from keyvault.services.usage import LineInput
from rotation.console.standing import last_used
from rotation.console.traffic import traffic as chart
from rotation.models import Rotation
from rotation.observe import observe
from rotation.plan import plan
from rotation.policy import STANDARD, to_json
from rotation.proof import offenders
from tests.integration.explained import Statements, all_read_whole, prefer_indexes, read_whole
from tests.integration.furniture import NOW, furnish, reread
from tests.integration.records import Traffic, traffic, two_versions

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

# There and back ------------------------------------------------------------------------------------


@contextmanager
def as_before(target: str) -> Iterator[Any]:
    """The database as it was at this migration, with the models of then; afterwards as it is now."""
    executor = MigrationExecutor(connection)
    newest = executor.loader.graph.leaf_nodes()
    executor.migrate([("keyvault", target)])
    try:
        yield executor.loader.project_state([("keyvault", target)]).apps
    finally:
        MigrationExecutor(connection).migrate(newest)


def flags(apps: Any) -> list[bool]:
    return list(
        apps.get_model("keyvault", "Delivery").objects.order_by("id").values_list("folded", flat=True)
    )


def old_delivery(apps: Any, reader: Traffic, at: datetime) -> None:
    apps.get_model("keyvault", "Delivery").objects.create(
        at=at,
        key_id=reader.key.id,
        version_id=reader.version.id,
        consumer_id=reader.consumer.id,
        token_id=reader.token.id,
        instance="web-1",
        label="current",
        credential="consumer_token",
        status=200,
        request_id="test",
    )


@pytest.mark.postgresql  # where such tables are large
@pytest.mark.django_db(transaction=True)
def test_the_migration_keeps_every_delivery_and_every_open_job(transactional_db: None) -> None:
    reader = traffic(furnish())
    reader.deliver(NOW - 3 * MINUTE)
    usage.roll_up()
    reader.report(1, lines=(LineInput(1, "key", {}, jobs_opened=5, jobs_closed=2),))
    reader.report(2, lines=(LineInput(1, "key", {}, jobs_opened=1, jobs_closed=1),))
    expected = list(
        OpenJobs.objects.values_list("version_id", "consumer_id", "instance", "open", "last_to_at")
    )
    assert len(expected) == 1
    with as_before("0002_guards") as apps:
        assert flags(apps) == [True]
        old_delivery(apps, reader, NOW - 3 * MINUTE + SECOND)
        old_delivery(apps, reader, NOW - MINUTE)
    assert usage.roll_up() == 0
    buckets = UsageBucket.objects.order_by("minute")
    assert list(buckets.values_list("deliveries", "last_delivery_at")) == [
        (2, NOW - 3 * MINUTE + SECOND),
        (1, NOW - MINUTE),
    ]
    assert LastDelivery.objects.get().last_at == NOW - MINUTE
    told = OpenJobs.objects.values_list("version_id", "consumer_id", "instance", "open", "last_to_at")
    assert list(told) == expected
    reader.deliver(NOW)
    with as_before("0002_guards") as apps:
        assert flags(apps) == [True, True, True, False]
    assert UsageBucket.objects.aggregate(n=Sum("deliveries"))["n"] == 4
    assert FoldMark.objects.get().delivery_id == Delivery.objects.latest("id").id


# Which index answers what --------------------------------------------------------------------------

LARGE = frozenset(
    model._meta.db_table for model in (Delivery, LastDelivery, OpenJobs, UsageBucket, UsageLine, Verification)
) | {"keyvault_verificationbucket"}


@pytest.fixture
def busy(db: None) -> tuple[Traffic, KeyVersion, Rotation]:
    """Some keys with folded deliveries and verifications, and a tail of each."""
    for _ in range(3):
        fill(*two_versions(furnish()))
    reader, newer = two_versions(furnish())
    fill(reader, newer)
    row = Rotation.objects.create(
        key=reader.key,
        outgoing=reader.version,
        incoming=newer,
        stage="monitor",
        policy=to_json(STANDARD),
        salt=b"s" * 32,
        created_at=NOW - HOUR,
        stage_entered_at=NOW - HOUR,
        step_entered_at=NOW - HOUR,
        deadline_at=NOW + HOUR,
    )
    prefer_indexes()
    return reader, newer, row


def fill(reader: Traffic, newer: KeyVersion) -> None:
    for half in range(2):
        rows = [
            Delivery(
                at=NOW - (200 - n) * SECOND,
                key=reader.key,
                version=newer if n % 3 else reader.version,
                consumer=reader.consumer,
                token=reader.token,
                instance=f"web-{n % 5}",
                label="current",
                credential="consumer_token",
                status=200,
                request_id=f"{half}-{n}",
            )
            for n in range(200)
        ]
        Delivery.objects.bulk_create(rows)
        for n in range(20):
            reader.verify(NOW - n * SECOND, by=reader.consumer if n % 2 else None)
        if not half:
            usage.roll_up()
    reader.report(1, instance="web-0", lines=(LineInput(1, "key", {"ok": 3}, jobs_opened=2),))


Question = Callable[[Traffic, KeyVersion, Rotation], object]
QUESTIONS: dict[str, Question] = {
    "who was given a key": lambda r, n, _: readers.given(r.key.id, NOW - HOUR),
    "when it was last given": lambda r, n, _: readers.last_given(r.key.id, NOW - HOUR),
    "deliveries by minute": lambda r, n, _: list(readers.per_minute(r.key.id, NOW - HOUR, NOW)),
    "last deliveries of keys": lambda r, n, _: readers.last_of_keys([r.key.id], NOW - HOUR),
    "versions never given": lambda r, n, _: readers.versions_given(
        r.key.id, [r.version.id, n.id], r.consumer.id, "web-99"
    ),
    "who verified": lambda r, n, _: verifiers.verified([r.version.id, n.id], NOW - HOUR),
    "last verifications": lambda r, n, _: verifiers.last_of_versions([r.version.id], NOW - HOUR),
    "open jobs": lambda r, n, _: jobs.open_jobs(r.version.id, NOW - HOUR),
    "open jobs of an instance": lambda r, n, _: jobs.has_open_jobs(
        r.version.id, r.consumer.id, "web-0", NOW - HOUR
    ),
    "open jobs of versions": lambda r, n, _: jobs.open_jobs_of([r.version.id, n.id]),
    "a usage report": lambda r, n, _: r.report(2, instance="web-0"),
    "a decision": lambda r, n, row: observe(row, NOW),
    "the quiet proof": lambda r, n, row: offenders(row, STANDARD, NOW),
    "a plan": lambda r, n, _: plan(reread(r.key), STANDARD, "standard", now=NOW),
    "the chart": lambda r, n, row: chart(row, (), NOW),
    "last use in lists": lambda r, n, _: last_used([reread(r.key)], NOW),
    "the roll-up": lambda r, n, _: usage.roll_up(),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_no_large_table_is_read_whole(busy: tuple[Traffic, KeyVersion, Rotation], question: Question) -> None:
    assert all_read_whole(lambda: question(*busy), LARGE) == {}


@pytest.mark.postgresql
def test_deliveries_are_found_by_time(busy: tuple[Traffic, KeyVersion, Rotation]) -> None:
    sql = "SELECT * FROM keyvault_delivery WHERE at > %s AND at < %s"
    assert read_whole(sql, [NOW - MINUTE, NOW], LARGE) == []


def test_a_plan_that_reads_a_table_whole_is_recognised(busy: tuple[Traffic, KeyVersion, Rotation]) -> None:
    assert read_whole("SELECT * FROM keyvault_delivery WHERE request_id = %s", ["x"], LARGE) != []


# Django's admin ------------------------------------------------------------------------------------


def test_the_admin_pages_deliveries_without_counting_all(
    busy: tuple[Traffic, KeyVersion, Rotation], client: Client
) -> None:
    client.force_login(User.objects.create_superuser("root", password="not-used-here"))
    page = client.get("/admin/keyvault/delivery/")
    assert page.status_code == 200
    statements = Statements()
    with connection.execute_wrapper(statements):
        assert FirstPages(Delivery.objects.order_by("-id"), 50).count == Delivery.objects.count()
    assert f"LIMIT {COUNTED}" in statements.seen[0][0]
