"""The verdict: one test per rule, the order of rules that disagree, and the fold of verdicts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotation.facts import Counts, Evidence, Observations, Snapshot, Stage
from rotation.judge import Verdict, judge, one_sided_p, tally
from rotation.policy import STANDARD

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
R = Snapshot(
    stage=Stage.SHIFT,
    policy=STANDARD,
    step=1,
    weight=25,
    created_at=NOW,
    stage_entered_at=NOW,
    step_entered_at=NOW,
    deadline_at=NOW + timedelta(days=7),
)
FRESH = {"probe_at": NOW - timedelta(minutes=1)}


def ev(probe: str = "accepted", **counts: int) -> Evidence:
    instances = 2 if counts.get("auth_invalid") else 0
    failing = 2 if any(counts.get(name) for name in ("auth_invalid", "server_error", "timeout")) else 0
    return Evidence(
        counts=Counts(**counts),
        auth_invalid_instances=instances,
        failing_instances=failing,
        probe=probe,
        probe_at=NOW - timedelta(minutes=1),
    )


def seen(incoming: Evidence, outgoing: Evidence | None = None, **more: Any) -> Observations:
    return Observations(incoming=incoming, outgoing=outgoing or ev(ok=100), instances=8, assigned=2, **more)


GOOD = ev(ok=100)
RULES: list[tuple[str, Observations, str, str]] = [
    ("both probes fail", seen(ev("unreachable"), ev("unreachable", ok=9)), "hold", "provider_incident"),
    (
        "both keys rejected: the plan lapsed",
        seen(ev("rejected"), ev("rejected")),
        "hold",
        "provider_incident",
    ),
    ("both error", seen(ev(ok=50, server_error=50), ev(ok=50, server_error=50)), "hold", "provider_incident"),
    ("rejected", seen(ev(ok=10, auth_invalid=3)), "fail", "key_rejected"),
    ("rejected by the probe", seen(ev("rejected", ok=10)), "fail", "key_rejected"),
    ("rejected twice is not enough", seen(ev(ok=98, auth_invalid=2)), "pass", "healthy"),
    (
        "rejected, but the outgoing one too",
        seen(ev(ok=97, auth_invalid=3), ev(ok=97, auth_invalid=3)),
        "inconclusive",
        "error_rate",
    ),
    (
        "rejected in one instance of several",
        seen(replace(ev(ok=97, auth_invalid=9), auth_invalid_instances=1, failing_instances=1)),
        "inconclusive",
        "one_instance",
    ),
    (
        "no key in the request",
        seen(replace(GOOD, auth_missing_instances=("billing/web-7",))),
        "hold",
        "consumer_misconfigured",
    ),
    ("silent", seen(GOOD, silent=("billing/web-7",)), "inconclusive", "silent"),
    ("jobs of the other key", seen(ev(ok=100, not_found_job=1)), "hold", "affinity"),
    ("only the new key is limited", seen(ev(ok=90, rate_limited=10)), "hold", "capacity"),
    ("both are limited", seen(ev(ok=90, rate_limited=10), ev(ok=90, rate_limited=10)), "pass", "healthy"),
    ("errors", seen(ev(ok=80, server_error=20)), "suspect", "error_rate"),
    (
        "errors, few, not significant",
        seen(ev(ok=19, server_error=1), ev(ok=40)),
        "inconclusive",
        "error_rate",
    ),
    ("errors within the limit", seen(ev(ok=99, server_error=1)), "pass", "healthy"),
    ("too few", seen(ev(ok=19)), "inconclusive", "too_few_samples"),
    ("client errors are the caller's", seen(ev(ok=50, client_error=50)), "pass", "healthy"),
    ("enough", seen(GOOD), "pass", "healthy"),
    # order
    (
        "incident before rejected",
        seen(ev("rejected", auth_invalid=9), ev("unreachable")),
        "hold",
        "provider_incident",
    ),
    (
        "rejected before misconfigured",
        seen(replace(ev(auth_invalid=9), auth_missing_instances=("a/b",))),
        "fail",
        "key_rejected",
    ),
    (
        "misconfigured before silent",
        seen(replace(GOOD, auth_missing_instances=("a/b",)), silent=("c/d",)),
        "hold",
        "consumer_misconfigured",
    ),
    ("affinity before errors", seen(ev(ok=50, server_error=50, not_found_job=1)), "hold", "affinity"),
]


@pytest.mark.parametrize(("case", "observed", "kind", "code"), RULES, ids=[row[0] for row in RULES])
def test_judge(case: str, observed: Observations, kind: str, code: str) -> None:
    verdict = judge(R, observed, NOW)
    assert (verdict.kind, verdict.code) == (kind, code)
    assert verdict.reason


def test_the_only_instance_may_speak_for_itself() -> None:
    alone = replace(seen(replace(ev(auth_invalid=3), auth_invalid_instances=1)), assigned=1)
    assert judge(R, alone, NOW).kind == "fail"


def test_an_old_probe_says_nothing() -> None:
    old = replace(ev("rejected", ok=100), probe_at=NOW - timedelta(hours=1))
    assert judge(R, seen(old), NOW).kind == "pass"


def test_where_nobody_is_assigned_the_probe_stands_in_below_100_only() -> None:
    nobody = replace(seen(ev()), assigned=0)
    assert judge(R, nobody, NOW).code == "nobody_assigned"
    assert judge(replace(R, weight=100), nobody, NOW).kind == "inconclusive"


def test_silence_passes_only_where_the_policy_allows_an_idle_key() -> None:
    assert judge(R, seen(ev()), NOW).kind == "inconclusive"
    idle = replace(R, policy=replace(STANDARD, allow_idle=True))
    assert judge(idle, seen(ev()), NOW).kind == "pass"
    assert judge(idle, seen(ev("inconclusive")), NOW).kind == "inconclusive"


@pytest.mark.parametrize(
    ("bad_a", "bad_b", "significant"), [(20, 0, True), (1, 0, False), (5, 5, False), (12, 3, True)]
)
def test_the_one_sided_test(bad_a: int, bad_b: int, significant: bool) -> None:
    assert (one_sided_p(bad_a, 100, bad_b, 100) < 0.01) is significant


PASS, SUSPECT, HOLD = (Verdict(kind, "c", "r") for kind in ("pass", "suspect", "hold"))
MONITOR = replace(R, stage=Stage.MONITOR, weight=100, monitored=timedelta(hours=1), passes=1, failed_checks=1)
SLACK = timedelta(seconds=30)


@pytest.mark.parametrize(
    ("state", "verdict", "gap", "credited", "note"),
    [
        (MONITOR, PASS, 30, 30, ""),
        (MONITOR, PASS, 120, 120, ""),
        (MONITOR, PASS, 121, 0, "a gap in the observations was not counted"),
        (MONITOR, PASS, 86_400, 0, "a gap in the observations was not counted"),
        (MONITOR, PASS, -5, 0, "a gap in the observations was not counted"),
        (MONITOR, HOLD, 30, 0, "r"),
        (MONITOR, SUSPECT, 30, 0, "r"),
        (replace(MONITOR, paused=True), PASS, 30, 0, "paused"),
        (replace(MONITOR, attention="x"), PASS, 30, 0, "r"),
        (replace(MONITOR, stage=Stage.SHIFT), PASS, 30, 0, ""),
    ],
)
def test_only_observed_healthy_time_is_credited(
    state: Snapshot, verdict: Verdict, gap: int, credited: int, note: str
) -> None:
    counted = tally(state, verdict, last_check=NOW - timedelta(seconds=gap), slack=SLACK, now=NOW)
    assert counted.monitored - state.monitored == timedelta(seconds=credited)
    assert counted.clock_note == note


def test_the_first_check_credits_nothing() -> None:
    assert tally(MONITOR, PASS, last_check=None, slack=SLACK, now=NOW).monitored == MONITOR.monitored


def test_passes_must_be_in_a_row_and_failed_checks_add_up() -> None:
    assert tally(MONITOR, PASS, last_check=NOW, slack=SLACK, now=NOW).passes == 2
    broken = tally(MONITOR, SUSPECT, last_check=NOW, slack=SLACK, now=NOW)
    assert (broken.passes, broken.failed_checks) == (0, 2)
    assert tally(MONITOR, HOLD, last_check=NOW, slack=SLACK, now=NOW).failed_checks == 1
