"""The verdict on the incoming version, and what it does to the counters of a rotation. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from rotation.facts import Counts, Observations, Snapshot, Stage
from rotation.policy import Policy

REJECTED_AT_LEAST = 3
CAPACITY_SHARE = 0.02
ERROR_MARGIN = 0.01
SIGNIFICANCE = 0.01
FAILED_CHECKS = 3
PASSES_NEEDED = 2


@dataclass(frozen=True)
class Verdict:
    """``pass``, ``fail`` (roll back now), ``suspect`` (a failed check; three of them fail),
    ``hold`` (stop, a cause is known) or ``inconclusive`` (too little is known)."""

    kind: Literal["pass", "fail", "suspect", "hold", "inconclusive"]
    code: str
    reason: str


def judge(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict:
    """Judge the incoming version on the evidence of the window; the first rule that matches answers.

    1. Both versions bad: the provider has an incident; never a reason to roll back.
    2. The incoming key is rejected while the outgoing one is not: categorical, no statistics.
    3. An instance sends no key at all: it is misconfigured, the key is not to blame.
    4. An instance that used to report is silent.
    5. Jobs are not found under the incoming key: they belong to the outgoing one.
    6. Only the incoming key is rate-limited: its bucket is too small.
    7. Significantly more errors than the outgoing version in the same window.
    8. Too few samples: silence never promotes.
    """
    policy = rotation.policy
    for rule in (_incident, _rejected, _misconfigured, _silent, _affinity, _capacity, _error_rate):
        verdict = rule(policy, seen, now)
        if verdict is not None:
            return verdict
    return _samples(rotation, seen, now)


def _rate(part: int, total: int) -> float:
    return part / total if total else 0.0


def _probe_says(seen_probe: str, probe_at: datetime | None, policy: Policy, now: datetime) -> str:
    """The latest probe's outcome while it is fresh enough to count."""
    fresh = probe_at is not None and now - probe_at <= 2 * policy.probe_every + policy.check_every
    return seen_probe if fresh else ""


def _bad(counts: Counts, policy: Policy) -> bool:
    return counts.total >= policy.min_samples and _rate(counts.errors, counts.total) > max(
        policy.max_error_rate, 0.05
    )


def _incident(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    probes = [
        _probe_says(evidence.probe, evidence.probe_at, policy, now)
        for evidence in (seen.incoming, seen.outgoing)
    ]
    if all(probe in ("unreachable", "rejected", "forbidden") for probe in probes):
        return Verdict("hold", "provider_incident", "The provider refuses or does not answer both keys.")
    if _bad(seen.incoming.counts, policy) and _bad(seen.outgoing.counts, policy):
        return Verdict("hold", "provider_incident", "Both keys fail; the provider has a problem.")
    return None


def _rejected(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    incoming, outgoing = seen.incoming, seen.outgoing
    if outgoing.counts.auth_invalid:
        return None
    if _probe_says(incoming.probe, incoming.probe_at, policy, now) == "rejected":
        return Verdict("fail", "key_rejected", "The provider rejects the incoming key (probe).")
    # One consumer alone must not decide for the others, unless it is the only one there.
    enough = incoming.auth_invalid_instances >= 2 or seen.assigned <= 1
    if incoming.counts.auth_invalid >= REJECTED_AT_LEAST and enough:
        n = incoming.counts.auth_invalid
        return Verdict("fail", "key_rejected", f"The provider rejected the incoming key {n} times.")
    return None


def _misconfigured(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    names = seen.incoming.auth_missing_instances
    if not names:
        return None
    return Verdict("hold", "consumer_misconfigured", f"No key in the requests of {', '.join(names[:5])}.")


def _silent(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    if not seen.silent:
        return None
    return Verdict("inconclusive", "silent", f"No report from {', '.join(seen.silent[:5])} any more.")


def _affinity(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    n = seen.incoming.counts.not_found_job
    if not n:
        return None
    return Verdict(
        "hold", "affinity", f"{n} jobs were not found under the incoming key: they belong to the other."
    )


def _capacity(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    incoming, outgoing = seen.incoming.counts, seen.outgoing.counts
    if incoming.rate_limited < 2 or _rate(incoming.rate_limited, incoming.total) <= CAPACITY_SHARE:
        return None
    if _rate(outgoing.rate_limited, outgoing.total) >= CAPACITY_SHARE:
        return None
    return Verdict("hold", "capacity", "Only the incoming key is rate-limited at the provider.")


def one_sided_p(bad_a: int, n_a: int, bad_b: int, n_b: int) -> float:
    """Chance of A's error rate being this much above B's by luck (pooled two-proportion z-test)."""
    if not n_a or not n_b:
        return 1.0
    pooled = (bad_a + bad_b) / (n_a + n_b)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    if spread == 0:
        return 1.0
    z = (bad_a / n_a - bad_b / n_b) / spread
    return 0.5 * math.erfc(z / math.sqrt(2))


def _error_rate(policy: Policy, seen: Observations, now: datetime) -> Verdict | None:
    new, old = seen.incoming.counts, seen.outgoing.counts
    if new.total < policy.min_samples or _rate(new.errors, new.total) <= policy.max_error_rate:
        return None
    text = f"{_rate(new.errors, new.total):.1%} of {new.total} requests fail with the incoming key"
    if seen.incoming.failing_instances < 2 and seen.assigned > 1:
        # Telemetry of one consumer may delay everybody, but not decide for them.
        return Verdict("inconclusive", "one_instance", f"{text}, all in one instance.")
    if not old.total:
        # Nobody is left on the outgoing version: only the absolute limit can judge.
        return Verdict("suspect", "error_rate", text + ".")
    higher = _rate(new.errors, new.total) - _rate(old.errors, old.total) > ERROR_MARGIN
    if higher and one_sided_p(new.errors, new.total, old.errors, old.total) < SIGNIFICANCE:
        return Verdict(
            "suspect", "error_rate", f"{text}, {_rate(old.errors, old.total):.1%} with the outgoing."
        )
    return Verdict("inconclusive", "error_rate", f"{text}; the outgoing key does not do clearly better.")


def _samples(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict:
    policy, total = rotation.policy, seen.incoming.counts.total
    if total >= policy.min_samples:
        return Verdict("pass", "healthy", f"{total} requests with the incoming key, within the limits.")
    probe_ok = _probe_says(seen.incoming.probe, seen.incoming.probe_at, policy, now) == "accepted"
    if not seen.can_probe:
        probe_ok = policy.allow_idle
    nobody = rotation.stage is Stage.SHIFT and rotation.weight < 100 and seen.instances and not seen.assigned
    if probe_ok and nobody:
        return Verdict(
            "pass", "nobody_assigned", f"No instance falls into {rotation.weight} %; the probe passed."
        )
    if probe_ok and policy.allow_idle:
        return Verdict("pass", "idle", "Little traffic; the probe passed and the policy accepts that.")
    return Verdict(
        "inconclusive",
        "too_few_samples",
        f"{total} of {policy.min_samples} requests reported with the incoming key in the window.",
    )


@dataclass(frozen=True)
class Tally:
    """The rotation's counters after one check."""

    passes: int
    failed_checks: int
    monitored: timedelta
    clock_note: str  # why the monitor clock stands still; empty while it runs


def tally(
    rotation: Snapshot, verdict: Verdict, *, last_check: datetime | None, slack: timedelta, now: datetime
) -> Tally:
    """Fold one verdict into the counters. ``slack`` is how late the scheduler may be, a few of its ticks.

    Monitored time is the sum of spans between two checks that followed each other closely and whose
    later one passed: pauses, gaps, incidents and our own downtime are never credited.
    """
    passed = verdict.kind == "pass" and not rotation.paused and not rotation.attention
    passes = rotation.passes + 1 if passed else 0
    failed = rotation.failed_checks + (verdict.kind == "suspect")
    if rotation.stage is not Stage.MONITOR:
        return Tally(passes, failed, rotation.monitored, "")
    if rotation.paused:
        return Tally(passes, failed, rotation.monitored, "paused")
    if not passed:
        return Tally(passes, failed, rotation.monitored, verdict.reason)
    span = now - last_check if last_check is not None else timedelta(0)
    if not timedelta(0) <= span <= 3 * rotation.policy.check_every + slack:
        return Tally(passes, failed, rotation.monitored, "a gap in the observations was not counted")
    return Tally(passes, failed, rotation.monitored + span, "")
