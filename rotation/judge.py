"""The verdict on the incoming version. Pure.

What the verdict does to the counters and the monitor clock of a rotation stands in ``monitored``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal

from keyvault.domain import Instance
from rotation.facts import Counts, Evidence, Observations, Snapshot, Stage

REJECTED_AT_LEAST = 3
RATE_LIMITED_AT_LEAST = 2
CAPACITY_SHARE = 0.02
ERROR_MARGIN = 0.01
SIGNIFICANCE = 0.01
FAILED_CHECKS = 3
PASSES_NEEDED = 2
# The incoming key fails more than this many times as often as the outgoing one: no common incident.
INCIDENT_RATIO = 2
_DOWN = ("unreachable", "rejected", "forbidden")


@dataclass(frozen=True)
class Verdict:
    """``pass``, ``fail`` (roll back now), ``suspect`` (a failed check; three of them fail),
    ``hold`` (stop, a cause is known) or ``inconclusive`` (too little is known)."""

    kind: Literal["pass", "fail", "suspect", "hold", "inconclusive"]
    code: str
    reason: str


def judge(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict:
    """Judge the incoming version on the evidence of the window; the first rule that matches answers.

    1. Both versions bad, or the provider unreachable: an incident; never a reason to roll back.
    2. The incoming key is rejected while the outgoing one is not: categorical, no statistics.
    3. An instance sends no key at all: it is misconfigured, the key is not to blame.
    4. Jobs are not found under the incoming key: they belong to the outgoing one.
    5. Only the incoming key is rate-limited: its bucket is too small.
    6. Significantly more errors than the outgoing version.
    7. Rejections that rule 2 could not be sure of: they are never passed over.
    8. An instance that used to report is silent.
    9. Too few samples: silence never promotes.
    10. Otherwise it passes.

    What is known comes before what is not: a silent instance must not hide a failing key.
    """
    for rule in _RULES:
        verdict = rule(rotation, seen, now)
        if verdict is not None:
            return verdict
    total = seen.incoming.fair.total
    return Verdict("pass", "healthy", f"{total} requests with the incoming key, within the limits.")


def _rate(part: int, total: int) -> float:
    return part / total if total else 0.0


def _probe(evidence: Evidence, rotation: Snapshot, now: datetime) -> str:
    """The latest probe's outcome while it is fresh enough to count."""
    policy, at = rotation.policy, evidence.probe_at
    fresh = at is not None and now - at <= 2 * policy.probe_every + policy.check_every
    return evidence.probe if fresh else ""


def _rejections_count(evidence: Evidence, peers: int) -> bool:
    """Whether enough rejections come from enough places: one consumer must not decide for the others,
    unless it is the only one there. What we refused ourselves nobody can make up."""
    if evidence.refused_by_us >= REJECTED_AT_LEAST:
        return True
    enough = evidence.auth_invalid_instances >= 2 or peers <= 1
    return evidence.counts.auth_invalid >= REJECTED_AT_LEAST and enough


def _incident(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    """1. Probes reach nothing, or both keys are refused. 2. Reports say that both are rejected.
    3. Both exceed the error limit, and the incoming key is not out of proportion."""
    sides = (seen.incoming, seen.outgoing)
    probes = [_probe(evidence, rotation, now) for evidence in sides]
    alone = not rotation.has_outgoing or rotation.no_fallback
    if (alone and probes[0] == "unreachable") or all(probe in _DOWN for probe in probes):
        return Verdict("hold", "provider_incident", "The provider refuses or does not answer the keys.")
    rejected = [_rejections_count(evidence, seen.assigned) for evidence in sides]
    if all(rejected) and "accepted" not in probes:
        return Verdict("hold", "provider_incident", "The provider rejects both keys.")
    new, old = seen.incoming.fair, seen.outgoing.fair
    limit, least = rotation.policy.max_error_rate, rotation.policy.min_samples
    bad = all(one.total >= least and _rate(one.errors, one.total) > limit for one in (new, old))
    if bad and _rate(new.errors, new.total) <= INCIDENT_RATIO * _rate(old.errors, old.total):
        return Verdict("hold", "provider_incident", "Both keys fail; the provider has a problem.")
    return None


def _rejected(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    """Our own probe of the outgoing key outweighs what consumers report of it."""
    incoming, outgoing = seen.incoming, seen.outgoing
    outgoing_fine = not outgoing.counts.auth_invalid or _probe(outgoing, rotation, now) == "accepted"
    if not outgoing_fine:
        return None
    if _probe(incoming, rotation, now) == "rejected":
        return Verdict("fail", "key_rejected", "The provider rejects the incoming key (probe).")
    if not outgoing.counts.auth_invalid and _rejections_count(incoming, seen.assigned):
        n = incoming.counts.auth_invalid
        return Verdict("fail", "key_rejected", f"The provider rejected the incoming key {n} times.")
    return None


def _misconfigured(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    names = seen.incoming.auth_missing_instances
    if not names:
        return None
    return Verdict("hold", "consumer_misconfigured", f"No key in the requests of {', '.join(names[:5])}.")


def _affinity(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    n = seen.incoming.counts.not_found_job
    if not n:
        return None
    return Verdict(
        "hold", "affinity", f"{n} jobs were not found under the incoming key: they belong to the other."
    )


def _capacity(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    incoming, outgoing = seen.incoming.fair, seen.outgoing.fair
    share = _rate(incoming.rate_limited, incoming.total)
    if incoming.rate_limited < RATE_LIMITED_AT_LEAST or share <= CAPACITY_SHARE:
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
    return _upper_tail(bad_a / n_a - bad_b / n_b, spread)


def p_above(limit: float, bad: int, n: int) -> float:
    """Chance of this many bad ones of ``n`` by luck where the true share is ``limit`` (one-sided)."""
    if not n:
        return 1.0
    return _upper_tail(bad / n - limit, math.sqrt(limit * (1 - limit) / n))


def _upper_tail(difference: float, spread: float) -> float:
    if spread == 0:
        return 0.0 if difference > 0 else 1.0
    return 0.5 * math.erfc(difference / spread / math.sqrt(2))


def _error_rate(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    """Against the outgoing version in the same window; where too few use it, against what it did before
    the shift; where even that is unknown, against the limit alone."""
    policy, new = rotation.policy, seen.incoming.fair
    if new.total < policy.min_samples or _rate(new.errors, new.total) <= policy.max_error_rate:
        return None
    text = f"{_rate(new.errors, new.total):.1%} of {new.total} requests fail with the incoming key"
    if seen.incoming.failing_instances < 2 and seen.assigned > 1:
        # Telemetry of one consumer may delay everybody, but not decide for them.
        return Verdict("inconclusive", "one_instance", f"{text}, all in one instance.")
    for old, when in ((seen.outgoing.fair, "now"), (seen.baseline, "before the shift")):
        if old.total < policy.min_samples:
            continue
        more = _rate(new.errors, new.total) - _rate(old.errors, old.total)
        luck = one_sided_p(new.errors, new.total, old.errors, old.total)
        text += f", {_rate(old.errors, old.total):.1%} with the outgoing ({when})"
        return _failed_check(text, worse=more > ERROR_MARGIN and luck < SIGNIFICANCE)
    luck = p_above(policy.max_error_rate, new.errors, new.total)
    return _failed_check(
        f"{text}; the limit is {policy.max_error_rate:.1%}, and nothing is there to compare with",
        worse=luck < SIGNIFICANCE,
    )


def _failed_check(text: str, *, worse: bool) -> Verdict:
    if worse:
        return Verdict("suspect", "error_rate", f"{text}.")
    return Verdict("inconclusive", "error_rate", f"{text}: not clearly worse.")


def _contested(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    incoming, outgoing = seen.incoming, seen.outgoing
    n = incoming.counts.auth_invalid
    if _probe(incoming, rotation, now) == "rejected":
        return Verdict("inconclusive", "rejections", "Both keys are said to be rejected (probe, reports).")
    if n < REJECTED_AT_LEAST:
        return None
    where = f"The provider rejected the incoming key {n} times"
    if outgoing.counts.auth_invalid:
        return Verdict(
            "inconclusive", "rejections", f"{where}, the outgoing one {outgoing.counts.auth_invalid} times."
        )
    return Verdict("inconclusive", "one_instance", f"{where}, all in one instance.")


def _silent(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    if not seen.silent:
        return None
    return Verdict("inconclusive", "silent", f"No report from {', '.join(seen.silent[:5])} any more.")


def _samples(rotation: Snapshot, seen: Observations, now: datetime) -> Verdict | None:
    """Probes stand in for reports only where nobody is assigned, or where the policy allows an idle key.
    A provider without a probe has to show at least one request that it answered."""
    policy, total = rotation.policy, seen.incoming.fair.total
    if total >= policy.min_samples:
        return None
    accepted = _probe(seen.incoming, rotation, now) == "accepted"
    nobody = rotation.stage is Stage.SHIFT and rotation.weight < 100 and seen.instances and not seen.assigned
    if nobody and (accepted or (not seen.can_probe and policy.allow_idle)):
        return Verdict("pass", "nobody_assigned", f"No instance falls into {rotation.weight} %.")
    works = accepted or (not seen.can_probe and seen.incoming.counts.ok > 0)
    if works and policy.allow_idle:
        return Verdict("pass", "idle", "Little traffic; the key works and the policy accepts that.")
    reason = f"{total} of {policy.min_samples} requests reported with the incoming key in the window"
    if seen.incoming.counts.total > total:
        reason += f"; {seen.incoming.counts.total} were, but one instance must not speak for all"
    return Verdict("inconclusive", "too_few_samples", f"{reason}.")


_RULES = (
    _incident,
    _rejected,
    _misconfigured,
    _affinity,
    _capacity,
    _error_rate,
    _contested,
    _silent,
    _samples,
)


# Weighing ------------------------------------------------------------------------------------------


def weigh(by_instance: Mapping[Instance, Counts], *, peers: int, min_samples: int) -> Counts:
    """The sum in which no instance counts for more than all the others together.

    ``peers`` is how many instances there are, reporting or not. One that reports alone among several
    counts for at most half of ``min_samples``; where there is only one it speaks for itself.
    """
    if max(peers, len(by_instance)) <= 1:
        return sum(by_instance.values(), Counts())
    everything = sum(counts.total for counts in by_instance.values())
    least = (min_samples + 1) // 2
    capped = (_at_most(counts, max(least, everything - counts.total)) for counts in by_instance.values())
    return sum(capped, Counts())


def _at_most(counts: Counts, most: int) -> Counts:
    """The same shares in at most ``most`` requests; the largest outcome takes what rounding leaves."""
    if counts.total <= most:
        return counts
    parts = {item.name: getattr(counts, item.name) * most // counts.total for item in fields(Counts)}
    largest = max(parts, key=lambda name: getattr(counts, name))
    parts[largest] += most - sum(parts.values())
    return Counts(**parts)
