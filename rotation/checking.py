"""One check of a rotation: the verdict, its counters and its clock, on a locked row that the engine saves."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings

from rotation import counting, late, monitored
from rotation.facts import Observations, Snapshot, Stage
from rotation.judge import Verdict, judge
from rotation.models import Rotation
from rotation.monitored import tally
from rotation.observe import snapshot

# What the outgoing version did in this time before the shift is what the incoming one is compared with
# once nobody uses the outgoing one any more.
BASELINE = timedelta(hours=24)


def check(rotation: Rotation, seen: Observations, now: datetime) -> Verdict:
    """Take the verdict; count it at most once per check interval, however often we are called."""
    state = snapshot(rotation)
    verdict = judge(state, seen, now)
    since = now - rotation.last_check_at if rotation.last_check_at else None
    if since is not None and timedelta(0) <= since < state.policy.check_every * 0.9:
        return verdict
    counted = tally(state, verdict)
    rotation.passes, rotation.failed_checks = counted.passes, counted.failed_checks
    _run_clock(rotation, state, seen, verdict, now)
    rotation.last_check_at = now
    rotation.verdict, rotation.verdict_code = verdict.kind, verdict.code
    rotation.verdict_reason = verdict.reason[:500]
    return verdict


def _run_clock(
    rotation: Rotation, state: Snapshot, seen: Observations, verdict: Verdict, now: datetime
) -> None:
    """Decide the time since the last check, and what reports that came late say of the gaps before."""
    if rotation.stage != Stage.MONITOR:
        rotation.clock_note = ""
        return
    clock = monitored.from_json(rotation.clock, state.monitored)
    longest = monitored.longest_span(state.policy, timedelta(seconds=settings.KEYTURN_TICK))
    clock = monitored.run_on(clock, state, verdict, longest=longest, now=now)
    clock = late.count_late(rotation, state, clock, seen.baseline, now)
    rotation.clock = monitored.to_json(clock)
    rotation.monitored_seconds = clock.monitored.total_seconds()
    rotation.clock_note = clock.note[:500]


def take_baseline(rotation: Rotation, now: datetime) -> None:
    """Keep how the outgoing version did until the shift; read once, for it reads a whole day."""
    if rotation.outgoing_id is None:
        return
    baseline = counting.before(rotation.outgoing_id, now - BASELINE)
    rotation.baseline_requests, rotation.baseline_errors = baseline.total, baseline.errors
