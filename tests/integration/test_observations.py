"""Rows to observations: what counts as evidence, who is assigned, what the quiet proof demands."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from keyvault.domain import Split, gets_pending
from keyvault.models import KeyVersion, LastUse, Provider, UsageLine, UsageReport, Verification
from keyvault.services import usage
from keyvault.services.usage import LineInput
from rotation import late
from rotation.facts import Clause, Counts
from rotation.judge import judge
from rotation.models import Rotation
from rotation.monitored import Clock, Span
from rotation.observe import observe, snapshot
from rotation.policy import STANDARD, Policy, to_json
from rotation.proof import offenders, quiet_proof
from tests.integration.furniture import NOW, furnish
from tests.integration.records import Traffic, two_versions

pytestmark = pytest.mark.django_db

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def rotation(traffic: Traffic, newer: KeyVersion, stage: str = "monitor", **more: Any) -> Rotation:
    given: dict[str, Any] = {
        "key": traffic.key,
        "outgoing": traffic.version,
        "incoming": newer,
        "stage": stage,
        "policy": to_json(STANDARD),
        "salt": b"s" * 32,
        "created_at": NOW - DAY,
        "stage_entered_at": NOW - HOUR,
        "step_entered_at": NOW - HOUR,
        "deadline_at": NOW + DAY,
        **more,
    }
    return Rotation.objects.create(**given)


@pytest.fixture
def two(db: None) -> tuple[Traffic, KeyVersion]:
    return two_versions(furnish())


def provider_of(row: Rotation, **more: Any) -> None:
    provider: Provider = row.key.service.provider
    for name, value in more.items():
        setattr(provider, name, value)
    provider.save()


# Evidence ------------------------------------------------------------------------------------------


def test_verifications_of_a_key_we_issued_are_evidence(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer)
    for code, n in (("valid", 40), ("rate_limited", 2), ("revoked", 1), ("expired", 1), ("disabled", 1)):
        verified(reader, newer, code, n)
    incoming = observe(row, NOW).incoming
    assert incoming.counts == Counts(ok=40, rate_limited=2, auth_invalid=3)
    assert incoming.refused_by_us == 3
    usage.roll_up()
    assert observe(row, NOW).incoming.counts == incoming.counts, "folded or not"
    assert judge(snapshot(row), observe(row, NOW), NOW).code == "key_rejected"


def verified(reader: Traffic, version: KeyVersion, code: str, n: int) -> None:
    Verification.objects.create(
        at=NOW - MINUTE, version=version, consumer=reader.consumer, code=code, count=n
    )


def test_verifications_before_the_window_are_not_evidence(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer)
    Verification.objects.create(at=NOW - HOUR, version=newer, consumer=None, code="valid", count=40)
    assert observe(row, NOW).incoming.counts == Counts()


def test_one_instance_cannot_outweigh_the_others(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer)
    for instance, counts in (("web-1", {"server_error": 9000}), ("web-2", {"ok": 30}), ("web-3", {"ok": 30})):
        reader.deliver(NOW - MINUTE, instance, newer)
        reader.report(1, instance=instance, lines=(LineInput(newer.number, "key", counts),))
    incoming = observe(row, NOW).incoming
    assert incoming.counts == Counts(ok=60, server_error=9000)
    assert incoming.fair == Counts(ok=60, server_error=60)


def test_a_refusal_of_an_access_token_is_a_client_error(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer)
    reader.deliver(NOW - MINUTE, "web-1", newer)
    lines = (LineInput(newer.number, "access_token", {"auth_invalid": 5, "auth_missing": 1, "ok": 30}),)
    reader.report(1, lines=lines)
    seen = observe(row, NOW)
    assert seen.incoming.counts == Counts(ok=30, client_error=6)
    assert judge(snapshot(row), seen, NOW).code == "healthy"


def test_an_instance_that_stops_reporting_is_silent_for_two_windows(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer)
    reader.deliver(NOW - MINUTE, "web-1", newer)
    reader.report(1, end=NOW - 6 * MINUTE, lines=(LineInput(newer.number, "key", {"ok": 5}),))
    name = f"{reader.consumer.slug}/web-1"
    assert observe(row, NOW).silent == (name,)
    assert observe(row, NOW - 2 * MINUTE).silent == ()
    assert observe(row, NOW + 10 * MINUTE).silent == ()


# Who is assigned -----------------------------------------------------------------------------------


def active(reader: Traffic, *instances: str) -> None:
    for instance in instances:
        reader.deliver(NOW - MINUTE, instance)


def test_an_instance_with_open_jobs_is_not_assigned(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer, "shift", weight=100)
    active(reader, "web-1", "web-2")
    opened = LineInput(reader.version.number, "key", {"ok": 1}, jobs_opened=1)
    reader.report(1, end=NOW - MINUTE, lines=(opened,))
    assert observe(row, NOW).assigned == 2
    provider_of(row, key_affine=True)
    for stage in ("shift", "monitor"):
        row.stage = stage
        seen = observe(row, NOW)
        assert (seen.instances, seen.assigned, seen.shares.assigned) == (2, 1, 50.0)
    provider_of(row, max_job_age_seconds=30)
    assert observe(row, NOW).assigned == 2, "a job that is too old holds nobody"


@pytest.mark.parametrize(("weight", "canaries", "pinned"), [(1, 3, 0), (99, 3, 0), (100, 3, 3)])
def test_canaries_come_first_and_pins_last(
    two: tuple[Traffic, KeyVersion], weight: int, canaries: int, pinned: int
) -> None:
    reader, newer = two
    row = rotation(reader, newer, "shift", weight=weight)
    active(reader, "web-1", "web-2", "web-3")
    row.key.canaries = [reader.consumer.slug]
    assert observe(row, NOW).assigned == canaries
    row.key.canaries, row.key.pinned = [], [reader.consumer.slug]
    seen = observe(row, NOW)
    assert seen.assigned == pinned
    assert seen.shares.target == weight
    assert seen.shares.assigned == (100.0 if pinned else 0.0)


def test_with_few_instances_the_share_is_what_it_is(two: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = two
    row = rotation(reader, newer, "shift", weight=25)
    assert observe(row, NOW).shares.assigned is None, "no instance, no share"
    names: list[str] = []
    for n in range(1, 4):
        names.append(f"web-{n}")
        active(reader, names[-1])
        split = Split(25, b"s" * 32)
        mine = sum(gets_pending(split, reader.consumer.slug, name) for name in names)
        assert observe(row, NOW).shares.assigned == round(100 * mine / n, 1)


# The quiet proof -----------------------------------------------------------------------------------


def unmet(row: Rotation, policy: Policy = STANDARD) -> dict[Clause, list[str]]:
    clauses = quiet_proof(row, policy, NOW)
    return {clause: [one.who for one in found] for clause, found in clauses.items() if found}


def test_a_key_that_nobody_touched_is_quiet(two: tuple[Traffic, KeyVersion]) -> None:
    assert unmet(rotation(*two)) == {}
    assert offenders(rotation(*two, stage="succeeded", finished_at=NOW), STANDARD, NOW) == ()


def moved(reader: Traffic, newer: KeyVersion, at: timedelta, instance: str = "web-1") -> str:
    """An instance that had the outgoing version long ago and the incoming one since."""
    reader.deliver(NOW - at, instance)
    reader.deliver(NOW - at + SECOND, instance, newer)
    return f"{reader.consumer.slug}/{instance}"


@pytest.mark.parametrize(("ago", "clauses"), [(HOUR, [Clause.UNUSED]), (3 * HOUR, [])])
def test_a_delivery_is_a_use(two: tuple[Traffic, KeyVersion], ago: timedelta, clauses: list[Clause]) -> None:
    row = rotation(*two)
    who = moved(*two, ago)
    assert unmet(row) == {clause: [who] for clause in clauses}


def test_a_report_of_requests_is_a_use_and_one_without_is_not(two: tuple[Traffic, KeyVersion]) -> None:
    row = rotation(*two)
    reader = two[0]
    who = moved(*two, 5 * HOUR)
    reader.report(1, end=NOW - HOUR, lines=(LineInput(1, "key", {"ok": 0}),))
    assert unmet(row) == {}
    reader.report(2, end=NOW - HOUR, lines=(LineInput(1, "key", {"timeout": 1}),))
    assert unmet(row) == {Clause.UNUSED: [who]}
    reader.report(3, end=NOW - 3 * HOUR, lines=(LineInput(1, "key", {"ok": 1}),))
    assert LastUse.objects.get().last_at == NOW - HOUR, "an older report takes nothing back"
    (one,) = offenders(row, STANDARD, NOW)
    assert one.why == "last seen on v1 1 h ago"


def test_a_verification_is_a_use(two: tuple[Traffic, KeyVersion]) -> None:
    row = rotation(*two)
    verified(two[0], two[0].version, "valid", 1)
    assert unmet(row) == {Clause.UNUSED: [f"verified by {two[0].consumer.slug}"]}


def test_an_instance_that_never_had_the_incoming_version_stands_in_the_way_for_7_days(
    two: tuple[Traffic, KeyVersion],
) -> None:
    reader, _ = two
    row = rotation(*two, created_at=NOW - 20 * DAY)
    reader.deliver(NOW - 8 * DAY, "gone")
    assert unmet(row) == {}
    reader.deliver(NOW - 6 * DAY, "cron")
    assert unmet(row) == {Clause.MOVED: [f"{reader.consumer.slug}/cron"]}


def test_an_instance_that_went_back_to_the_outgoing_version_has_not_moved(
    two: tuple[Traffic, KeyVersion],
) -> None:
    reader, newer = two
    row = rotation(*two)
    reader.deliver(NOW - 4 * HOUR, "web-1", newer)
    reader.deliver(NOW - 3 * HOUR, "web-1")
    assert unmet(row) == {Clause.MOVED: [f"{reader.consumer.slug}/web-1"]}


def test_open_jobs_stand_in_the_way_where_jobs_are_tied_to_keys(two: tuple[Traffic, KeyVersion]) -> None:
    row = rotation(*two)
    who = moved(*two, 5 * HOUR)
    two[0].report(1, end=NOW - 4 * HOUR, lines=(LineInput(1, "key", {"ok": 1}, jobs_opened=2),))
    assert unmet(row) == {}
    provider_of(row, key_affine=True, max_job_age_seconds=86_400)
    assert unmet(row) == {Clause.JOBS: [who]}
    two[0].report(2, end=NOW - 3 * HOUR, lines=(LineInput(1, "key", {"ok": 1}, jobs_closed=2),))
    assert unmet(row) == {}


def test_access_tokens_outlive_a_short_quiet_time(two: tuple[Traffic, KeyVersion]) -> None:
    row = rotation(*two)
    moved(*two, 9 * MINUTE)
    moved(*two, 8 * MINUTE, "web-2")
    short = replace(STANDARD, quiet=MINUTE)
    assert unmet(row, short) == {}
    provider_of(row, derived_token_seconds=600)
    assert unmet(row, short) == {Clause.TOKENS: ["access tokens"]}
    two[0].deliver(NOW - SECOND, "web-3")
    assert set(unmet(row, short)) == {Clause.UNUSED, Clause.MOVED, Clause.TOKENS}, "each by itself"
    assert set(unmet(row)) == {Clause.UNUSED, Clause.MOVED}, "implied where the quiet time is longer"


LISTING = {"method": "GET", "path": "/keys", "items": "/keys", "id": "/id", "label": "/name"}
TOLD: list[tuple[timedelta | None, timedelta | None, list[str]]] = [
    (None, None, ["the provider"]),  # never asked
    (HOUR, None, ["the provider"]),  # asked too long ago
    (MINUTE, None, []),  # never used, says the provider
    (MINUTE, HOUR, ["the provider"]),
    (MINUTE, 3 * HOUR, []),
]


@pytest.mark.parametrize(("asked", "used", "names"), TOLD)
def test_the_provider_itself_has_to_say_that_it_was_not_used(
    two: tuple[Traffic, KeyVersion], asked: timedelta | None, used: timedelta | None, names: list[str]
) -> None:
    row = rotation(*two)
    row.inspected_at = NOW - asked if asked else None
    row.provider_used_at = NOW - used if used else None
    assert unmet(row) == {}, "a provider that does not tell is not asked"
    provider_of(row, driver="http", driver_config={"list": {**LISTING, "last_used": "/last_used_at"}})
    assert row.outgoing is not None
    row.outgoing.provider_key_id = "key_1"
    assert unmet(row) == ({Clause.PROVIDER: names} if names else {})


# Bounds --------------------------------------------------------------------------------------------

BOUNDED = ("usage_version_to", "usage_version_received")


@pytest.fixture
def planned(two: tuple[Traffic, KeyVersion]) -> tuple[Traffic, KeyVersion]:
    """Many lines of long ago, so that the database has a reason to choose."""
    reader, newer = two
    report = UsageReport.objects.create(
        consumer=reader.consumer,
        key=reader.key,
        instance="web-1",
        sequence=0,
        from_at=NOW - 30 * DAY,
        to_at=NOW - 30 * DAY,
        received_at=NOW - 30 * DAY,
    )
    UsageLine.objects.bulk_create(
        UsageLine(
            report=report,
            key=reader.key,
            version=version,
            consumer=reader.consumer,
            instance=f"web-{n % 50}",
            received_at=NOW - 30 * DAY + n * SECOND,
            to_at=NOW - 30 * DAY + n * SECOND,
            credential="key",
            ok=1,
        )
        for n in range(3000)
        for version in (reader.version, newer)
    )
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    return two


def test_reports_of_long_ago_cost_a_decision_nothing(planned: tuple[Traffic, KeyVersion]) -> None:
    reader, newer = planned
    row = rotation(reader, newer)
    asked: list[tuple[str, Any]] = []

    def remember(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    gap = Span(NOW - HOUR, NOW - MINUTE)
    clock = Clock(until=NOW, read_at=NOW - MINUTE, gaps=(gap,), late=gap)
    with connection.execute_wrapper(remember):
        seen = observe(row, NOW)
        late.count_late(row, snapshot(row), clock, seen.baseline, NOW)
    told = [one for one in asked if 'FROM "keyvault_usageline"' in one[0]]
    assert len(told) == 4, "window, silence, what came late, the gap"
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    for sql, params in told:
        with connection.cursor() as cursor:
            cursor.execute(f"{explain} {sql}", params)
            plan = " ".join(str(part) for line in cursor.fetchall() for part in line)
        assert any(index in plan for index in BOUNDED), plan
        assert "to_at" in plan or "received_at" in plan, plan
