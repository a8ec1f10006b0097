"""The verdict: every rule, every pair of rules that disagree, and how much one instance can say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from rotation.facts import Counts, Evidence, Observations, Snapshot, Stage
from rotation.judge import judge, one_sided_p, p_above, weigh
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
IDLE = replace(R, policy=replace(STANDARD, allow_idle=True))


def ev(probe: str = "accepted", **counts: int) -> Evidence:
    failing = any(counts.get(name) for name in ("auth_invalid", "server_error", "timeout"))
    return Evidence(
        counts=Counts(**counts),
        auth_invalid_instances=2 if counts.get("auth_invalid") else 0,
        failing_instances=2 if failing else 0,
        probe=probe,
        probe_at=NOW - timedelta(minutes=1),
    )


def seen(incoming: Evidence, outgoing: Evidence | None = None, **more: Any) -> Observations:
    usual: dict[str, Any] = {"instances": 8, "assigned": 2}
    return Observations(incoming=incoming, outgoing=outgoing or ev(ok=100), **{**usual, **more})


GOOD = ev(ok=100)
UNPROBED: dict[str, Any] = {"probe": "", "probe_at": None}
NO_KEY = replace(GOOD, auth_missing_instances=("billing/web-7",))
ONE_REJECTED = replace(ev(ok=9991, auth_invalid=9), auth_invalid_instances=1, failing_instances=1)
RULES: list[tuple[str, Observations, str, str]] = [
    # 1 incident
    ("no probe gets through", seen(ev("unreachable"), ev("unreachable", ok=9)), "hold", "provider_incident"),
    ("both keys refused: the plan lapsed", seen(ev("rejected"), ev("rejected")), "hold", "provider_incident"),
    ("both forbidden", seen(ev("forbidden"), ev("forbidden")), "hold", "provider_incident"),
    ("one unreachable", seen(ev("unreachable", ok=50)), "pass", "healthy"),
    ("both error", seen(ev(ok=50, server_error=50), ev(ok=50, server_error=50)), "hold", "provider_incident"),
    (
        "both exceed the policy's limit a little",
        seen(ev(ok=97, server_error=3), ev(ok=97, server_error=3)),
        "hold",
        "provider_incident",
    ),
    (
        "both exceed the limit, the incoming key out of proportion",
        seen(ev(ok=50, server_error=50), ev(ok=97, server_error=3)),
        "suspect",
        "error_rate",
    ),
    (
        "reports: both keys rejected",
        seen(replace(ev(ok=9, auth_invalid=3), **UNPROBED), replace(ev(ok=9997, auth_invalid=3), **UNPROBED)),
        "hold",
        "provider_incident",
    ),
    # 2 rejected
    ("rejected", seen(ev(ok=10, auth_invalid=3)), "fail", "key_rejected"),
    ("rejected 3 times of 10,000", seen(ev(ok=9997, auth_invalid=3)), "fail", "key_rejected"),
    ("rejected by the probe", seen(ev("rejected", ok=10)), "fail", "key_rejected"),
    ("rejected twice is not enough", seen(ev(ok=98, auth_invalid=2)), "pass", "healthy"),
    (
        "rejected by the probe; a consumer says so of the other, whose probe passes",
        seen(ev("rejected", ok=10), ev(ok=99, auth_invalid=1)),
        "fail",
        "key_rejected",
    ),
    (
        "we refused it ourselves, whoever presented it",
        seen(replace(ev(ok=97, auth_invalid=3), auth_invalid_instances=1, refused_by_us=3)),
        "fail",
        "key_rejected",
    ),
    # 3 misconfigured
    ("no key in the request", seen(NO_KEY), "hold", "consumer_misconfigured"),
    # 4 affinity
    ("jobs of the other key", seen(ev(ok=100, not_found_job=1)), "hold", "affinity"),
    ("jobs of the other key, few requests", seen(ev(ok=1, not_found_job=1)), "hold", "affinity"),
    # 5 capacity
    ("only the new key is limited", seen(ev(ok=90, rate_limited=10)), "hold", "capacity"),
    ("limited once", seen(ev(ok=20, rate_limited=1)), "pass", "healthy"),
    ("limited within the share", seen(ev(ok=98, rate_limited=2)), "pass", "healthy"),
    ("both are limited", seen(ev(ok=90, rate_limited=10), ev(ok=90, rate_limited=10)), "pass", "healthy"),
    # 6 error rate
    ("errors", seen(ev(ok=80, server_error=20)), "suspect", "error_rate"),
    ("time-outs", seen(ev(ok=80, timeout=20)), "suspect", "error_rate"),
    ("1 of 3 says nothing", seen(ev(ok=2, server_error=1)), "inconclusive", "too_few_samples"),
    ("1 of 20 may be luck", seen(ev(ok=19, server_error=1), ev(ok=40)), "inconclusive", "error_rate"),
    ("errors within the limit", seen(ev(ok=99, server_error=1)), "pass", "healthy"),
    (
        "errors in one instance of several",
        seen(replace(ev(ok=80, server_error=20), failing_instances=1)),
        "inconclusive",
        "one_instance",
    ),
    # 7 rejections that are not clear
    (
        "rejected, and the outgoing one too, among many",
        seen(ev(ok=9997, auth_invalid=3), ev(ok=9997, auth_invalid=3)),
        "inconclusive",
        "rejections",
    ),
    ("rejected in one instance of several", seen(ONE_REJECTED), "inconclusive", "one_instance"),
    (
        "probe and reports blame both keys",
        seen(ev("rejected", ok=100), replace(ev(ok=99, auth_invalid=1), **UNPROBED)),
        "inconclusive",
        "rejections",
    ),
    # 8 silent
    ("silent", seen(GOOD, silent=("billing/web-7",)), "inconclusive", "silent"),
    # 9 samples
    ("too few", seen(ev(ok=19)), "inconclusive", "too_few_samples"),
    ("nothing at all", seen(ev("")), "inconclusive", "too_few_samples"),
    ("nothing but a probe", seen(ev()), "inconclusive", "too_few_samples"),
    # 10 pass
    ("client errors are the caller's", seen(ev(ok=50, client_error=50)), "pass", "healthy"),
    ("enough", seen(GOOD), "pass", "healthy"),
]


@pytest.mark.parametrize(("case", "observed", "kind", "code"), RULES, ids=[row[0] for row in RULES])
def test_each_rule(case: str, observed: Observations, kind: str, code: str) -> None:
    verdict = judge(R, observed, NOW)
    assert (verdict.kind, verdict.code) == (kind, code)
    assert verdict.reason


# What makes each rule match, so that any two can be true at once. In the order in which they win.
_DOWN = {"probe": "unreachable"}
MATCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "provider_incident": ({"incoming": _DOWN, "outgoing": _DOWN}, {}),
    "key_rejected": ({"counts": {"auth_invalid": 3}, "incoming": {"auth_invalid_instances": 2}}, {}),
    "consumer_misconfigured": ({"incoming": {"auth_missing_instances": ("billing/web-7",)}}, {}),
    "affinity": ({"counts": {"not_found_job": 1}}, {}),
    "capacity": ({"counts": {"rate_limited": 30}}, {}),
    "error_rate": ({"counts": {"server_error": 200}, "incoming": {"failing_instances": 2}}, {}),
    "rejections": (
        {
            "counts": {"auth_invalid": 3},
            "old": {"auth_invalid": 1},
            "incoming": {"auth_invalid_instances": 2},
        },
        {},
    ),
    "silent": ({}, {"silent": ("billing/web-7",)}),
    "too_few_samples": ({"few": True}, {}),
}
# They contradict each other: rejections are clear or they are not; where samples are few no rate is known.
IMPOSSIBLE = {("key_rejected", "rejections"), ("error_rate", "too_few_samples")}
PAIRS = [pair for pair in combinations(MATCHES, 2) if pair not in IMPOSSIBLE]


def both(*codes: str) -> Observations:
    """Observations in which the rules with these codes match."""
    new: dict[str, int] = {"ok": 1000}
    old: dict[str, int] = {"ok": 100}
    sides: dict[str, dict[str, Any]] = {"incoming": {}, "outgoing": {}}
    more: dict[str, Any] = {}
    for code in codes:
        part, rest = MATCHES[code]
        new |= part.get("counts", {})
        old |= part.get("old", {})
        sides["incoming"] |= part.get("incoming", {})
        sides["outgoing"] |= part.get("outgoing", {})
        more |= rest
        if part.get("few"):
            new["ok"] = 1
    if "few" in MATCHES[codes[-1]][0]:
        new = {name: min(n, 5) for name, n in new.items()}
    probed = {"probe": "accepted", "probe_at": NOW - timedelta(minutes=1)}
    incoming = Evidence(counts=Counts(**new), **{**probed, **sides["incoming"]})
    outgoing = Evidence(counts=Counts(**old), **{**probed, **sides["outgoing"]})
    return seen(incoming, outgoing, **more)


@pytest.mark.parametrize("code", MATCHES)
def test_what_makes_a_rule_match_does_so_alone(code: str) -> None:
    assert judge(R, both(code), NOW).code == code


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[" over ".join(pair) for pair in PAIRS])
def test_which_of_two_rules_wins(first: str, second: str) -> None:
    assert judge(R, both(first, second), NOW).code == first


def test_a_silent_instance_does_not_hide_a_failing_key() -> None:
    assert judge(R, both("error_rate", "silent"), NOW).kind == "suspect"


def test_the_only_instance_may_speak_for_itself() -> None:
    alone = replace(seen(replace(ev(auth_invalid=3), auth_invalid_instances=1)), assigned=1)
    assert judge(R, alone, NOW).kind == "fail"


def test_an_old_probe_says_nothing() -> None:
    old = replace(ev("rejected", ok=100), probe_at=NOW - timedelta(hours=1))
    assert judge(R, seen(old), NOW).kind == "pass"


def test_a_first_version_has_only_its_own_probe_to_tell_that_the_provider_is_away() -> None:
    first = replace(R, has_outgoing=False)
    away = seen(ev("unreachable", ok=100), Evidence())
    assert judge(first, away, NOW).code == "provider_incident"
    assert judge(R, away, NOW).code == "healthy"


# Idle keys ------------------------------------------------------------------------------------------


def test_where_nobody_is_assigned_the_probe_stands_in_below_100_only() -> None:
    nobody = seen(ev(), assigned=0)
    assert judge(R, nobody, NOW).code == "nobody_assigned"
    assert judge(R, replace(nobody, incoming=ev("")), NOW).kind == "inconclusive"
    assert judge(replace(R, weight=100), nobody, NOW).kind == "inconclusive"
    assert judge(replace(R, stage=Stage.MONITOR), nobody, NOW).kind == "inconclusive"


def test_where_no_instance_is_known_at_all_nothing_is_promoted() -> None:
    assert judge(R, seen(ev(), instances=0, assigned=0), NOW).kind == "inconclusive"


def test_silence_passes_only_where_the_policy_allows_an_idle_key_and_something_shows_that_it_works() -> None:
    assert judge(R, seen(ev()), NOW).kind == "inconclusive"
    assert judge(IDLE, seen(ev()), NOW).code == "idle"
    assert judge(IDLE, seen(ev("inconclusive")), NOW).kind == "inconclusive"
    unprobed = Evidence(counts=Counts())
    assert judge(IDLE, seen(unprobed, can_probe=False), NOW).kind == "inconclusive"
    assert judge(IDLE, seen(replace(unprobed, counts=Counts(ok=1)), can_probe=False), NOW).code == "idle"
    assert judge(IDLE, seen(unprobed, can_probe=False, assigned=0), NOW).code == "nobody_assigned"


# Statistics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad_a", "bad_b", "significant"),
    [(20, 0, True), (1, 0, False), (5, 5, False), (12, 3, True), (3, 12, False)],
)
def test_the_test_is_one_sided(bad_a: int, bad_b: int, significant: bool) -> None:
    assert (one_sided_p(bad_a, 100, bad_b, 100) < 0.01) is significant


@pytest.mark.parametrize(
    ("bad", "n", "significant"), [(1, 20, False), (4, 20, True), (0, 20, False), (0, 0, False)]
)
def test_above_a_limit_by_luck(bad: int, n: int, significant: bool) -> None:
    assert (p_above(0.02, bad, n) < 0.01) is significant
    assert p_above(0.0, 1, 20) == 0.0
    assert p_above(0.0, 0, 20) == 1.0


BASELINES: list[tuple[str, int, Counts, Counts, str, str]] = [
    ("clearly worse than before the shift", 10, Counts(), Counts(ok=1000), "suspect", "before the shift"),
    ("as bad as before the shift", 10, Counts(), Counts(ok=900, timeout=100), "inconclusive", "before the"),
    ("one straggler is no control group", 10, Counts(ok=1), Counts(ok=1000), "suspect", "before the shift"),
    (
        "the same window comes first",
        10,
        Counts(ok=99, timeout=1),
        Counts(ok=90, timeout=10),
        "suspect",
        "now",
    ),
    ("no baseline: far above the limit", 10, Counts(), Counts(), "suspect", "nothing is there to compare"),
    ("no baseline: may be luck", 3, Counts(), Counts(ok=19), "inconclusive", "nothing is there to compare"),
]


@pytest.mark.parametrize(
    ("case", "bad", "old", "baseline", "kind", "reason"), BASELINES, ids=[row[0] for row in BASELINES]
)
def test_without_a_control_group_the_time_before_the_shift_is_compared(
    case: str, bad: int, old: Counts, baseline: Counts, kind: str, reason: str
) -> None:
    at_100 = replace(R, stage=Stage.MONITOR, weight=100)
    observed = seen(ev(ok=100 - bad, server_error=bad), Evidence(counts=old), baseline=baseline)
    verdict = judge(at_100, observed, NOW)
    assert (verdict.kind, verdict.code) == (kind, "error_rate")
    assert reason in verdict.reason


# Weighing -------------------------------------------------------------------------------------------

A, B, C = ("billing", "web-1"), ("billing", "web-2"), ("shop", "web-1")


def test_one_instance_counts_at_most_as_much_as_all_the_others() -> None:
    loud = {A: Counts(server_error=10_000), B: Counts(ok=30), C: Counts(ok=20)}
    assert weigh(loud, peers=3, min_samples=20) == Counts(ok=50, server_error=50)


def test_shares_within_an_instance_stay_what_they_are() -> None:
    loud = {A: Counts(ok=900, server_error=100), B: Counts(ok=40)}
    assert weigh(loud, peers=2, min_samples=20) == Counts(ok=36 + 40, server_error=4)


def test_a_few_requests_of_the_others_do_not_silence_an_instance() -> None:
    assert weigh({A: Counts(ok=100), B: Counts(ok=1)}, peers=2, min_samples=20).total == 11


def test_one_that_reports_alone_among_several_does_not_bring_enough_samples() -> None:
    lone = {A: Counts(ok=10_000)}
    fair = weigh(lone, peers=3, min_samples=20)
    assert fair == Counts(ok=10)
    told = seen(replace(ev(ok=10_000), weighed=fair), assigned=3)
    verdict = judge(R, told, NOW)
    assert verdict.code == "too_few_samples"
    assert "one instance" in verdict.reason


def test_the_only_instance_is_heard_in_full() -> None:
    lone = {A: Counts(ok=10_000)}
    assert weigh(lone, peers=1, min_samples=20) == Counts(ok=10_000)
    assert weigh({}, peers=0, min_samples=20) == Counts()


def test_rates_are_taken_from_what_is_weighed() -> None:
    loud = {A: Counts(server_error=1_000), B: Counts(ok=996, server_error=4), C: Counts(ok=1_000)}
    raw = sum(loud.values(), Counts())
    told = replace(
        ev(), counts=raw, failing_instances=2, weighed=weigh({**loud, A: Counts()}, peers=3, min_samples=20)
    )
    assert judge(R, seen(told), NOW).code == "healthy"
