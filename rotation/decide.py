"""What to do next with a rotation: ``decide(rotation, seen, verdict, now) -> Action``. Pure.

A tuple of guards comes first (safety before progress, the first answer wins), then one function per
stage. A rule returns what should happen; it never does it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from rotation.facts import (
    HELD_BACK,
    IN_FLIGHT,
    TERMINAL,
    Action,
    Attention,
    Call,
    Enter,
    Kind,
    Observations,
    OperationState,
    OperationView,
    Rollback,
    SetWeight,
    Side,
    Snapshot,
    Stage,
    Verb,
    Wait,
)
from rotation.gates import approval_missing, closed, late, passes_half, patience
from rotation.judge import FAILED_CHECKS, PASSES_NEEDED, Verdict

PROPAGATION_BUDGET = timedelta(minutes=5)


def decide(rotation: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action:
    """The next action for an open rotation."""
    for guard in (_point_of_no_return, _aborted, _failing, _stopped, _overdue):
        action = guard(rotation, seen, verdict, now)
        if action is not None:
            return action
    return _STAGES[rotation.stage](rotation, seen, verdict, now)


# Guards --------------------------------------------------------------------------------------------


def _point_of_no_return(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action | None:
    """Once a revoke was asked, the only way is forward: the outgoing key may be dead already."""
    if not r.revoke_asked or r.stage is not Stage.REVOKE:
        return None  # of a cutover, the deploy stage sees to it
    if r.attention:
        return Wait("a person must choose", _later(r, now), code=r.attention)
    return _finish_revoke(r, seen, now)


def _aborted(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action | None:
    """1. Nothing was created: cancelled. 2. A creation is in flight: wait for its outcome.
    3. The outgoing key is disabled: enable it first. 4. Otherwise roll back."""
    if not r.abort_asked:
        return None
    issue = seen.operations.get((Kind.ISSUE, Side.INCOMING))
    if not r.incoming_held:
        if issue is not None and issue.state in IN_FLIGHT:
            return Wait("the answer of the provider, before anything is cleaned up", _later(r, now))
        if issue is not None and issue.state is OperationState.UNKNOWN:
            return _reconcile(r, seen, now)
        return Enter(Stage.CANCELLED, "aborted before a new key existed")
    return _roll_back(r, seen, "aborted by a person", now)


def _roll_back(r: Snapshot, seen: Observations, reason: str, now: datetime) -> Action:
    if r.has_outgoing and r.outgoing_disabled:
        enable = seen.operations.get((Kind.ENABLE, Side.OUTGOING))
        if enable is None or enable.state is OperationState.DONE:
            return Call(Kind.ENABLE, Side.OUTGOING)
        if enable.state in IN_FLIGHT or enable.state is OperationState.UNKNOWN:
            return _wait_for(enable, "the outgoing key to be enabled again", r, now)
        return Attention("enable_failed", enable.message, (Verb.ADVANCE, Verb.EMERGENCY))
    if r.outgoing_compromised and not r.abort_asked:
        return Attention(
            "no_safe_version",
            f"{reason}; the outgoing key is compromised, so there is nothing safe to go back to",
            (Verb.ADVANCE, Verb.ABORT, Verb.EMERGENCY),
        )
    if r.no_fallback or not r.has_outgoing or not r.outgoing_active:
        if r.attention == "no_fallback":
            return Wait("a person must choose: there is no working outgoing key", _later(r, now))
        return Attention(
            "no_fallback", f"{reason}; the outgoing key no longer works", (Verb.ADVANCE, Verb.EMERGENCY)
        )
    return Rollback(reason)


def _failing(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action | None:
    """A rejected key, or three failed checks, roll back - also while paused: pause never stops protection."""
    if r.stage not in (Stage.SHIFT, Stage.MONITOR) or (r.weight == 0 and r.stage is Stage.SHIFT):
        return None
    if verdict.kind == "fail" or (verdict.kind == "suspect" and r.failed_checks >= FAILED_CHECKS):
        if r.attention in ("no_safe_version", "no_fallback"):
            return Wait("a person must choose: there is no safe key to go back to", _later(r, now))
        return _roll_back(r, seen, verdict.reason, now)
    return None


def _stopped(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action | None:
    """Progress waits for the person who was asked, or who paused it."""
    if r.attention:
        return Wait("a person must choose", _later(r, now), code=r.attention)
    if r.paused:
        return Wait("paused by a person", _later(r, now), code="paused")
    return None


def _overdue(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action | None:
    """Past its deadline it asks for a person, and names the stragglers; it never revokes for being late."""
    if not late(r, now) or r.stage is Stage.REVOKE:
        return None
    if r.stage is Stage.MONITOR and r.monitored >= r.policy.monitor and seen.offenders:
        names = ", ".join(offender.who for offender in seen.offenders[:5])
        return Attention(
            "stragglers",
            f"the outgoing key is still in use: {names}",
            (Verb.EXTEND, Verb.FORCE_REVOKE, Verb.ABORT, Verb.RESUME),
        )
    verbs = (Verb.EXTEND, Verb.ABORT, Verb.RESUME)
    return Attention("overdue", f"not finished in time: {verdict.reason}", verbs)


# Stages --------------------------------------------------------------------------------------------


def _requested(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action:
    """Approvals to start, then the windows and freezes of the policy."""
    wait = approval_missing(r, seen, "start", patience(r, now)) or closed(r, now, look=r.deadline_at)
    if wait is not None:
        return wait
    return Enter(Stage.DEPLOY, "approved" if r.policy.approvals.get("start") else "started")


def _deploy(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action:
    """Issue the incoming key, then verify it at the provider."""
    return _verify(r, seen, now) if r.incoming_held else _issue(r, seen, now)


def _issue(r: Snapshot, seen: Observations, now: datetime) -> Action:
    """1. Lost answer: reconcile. 2. In flight: wait. 3. A person must create it. 4. Refused: a person
    decides. 5. A cutover makes room. 6. No room at the provider: say so before asking it. 7. Ask."""
    issue = seen.operations.get((Kind.ISSUE, Side.INCOMING))
    if issue is not None and issue.state is OperationState.UNKNOWN:
        return _reconcile(r, seen, now)
    if issue is not None and issue.state in IN_FLIGHT:
        return _wait_for(issue, "the provider to create the new key", r, now, code="issuing")
    if issue is not None and issue.state is OperationState.NEEDS_PERSON and r.policy.cutover:
        return Attention(
            "replace_key",
            "replace the key at the provider, which ends the old one, and paste the new one here at once",
            (Verb.SUPPLY, Verb.ABORT),
        )
    if issue is not None and issue.state is OperationState.NEEDS_PERSON:
        return Attention(
            "supply_key",
            "create a new key at the provider and paste it here",
            (Verb.SUPPLY, Verb.ABORT),
        )
    if issue is not None and issue.state is OperationState.FAILED:
        verbs = (Verb.RESUME, Verb.SUPPLY, Verb.ABORT)
        return Attention(issue.outcome or "issue_failed", issue.message, verbs)
    if r.policy.cutover:
        return _make_room(r, seen, now) or Call(Kind.ISSUE, Side.INCOMING)
    if seen.quota_full:
        return Attention(
            "quota_full",
            "the provider allows no further key: revoke one that nobody uses, then resume",
            (Verb.RESUME, Verb.SUPPLY, Verb.ABORT),
        )
    return Call(Kind.ISSUE, Side.INCOMING)


def _make_room(r: Snapshot, seen: Observations, now: datetime) -> Action | None:
    """In a cutover the outgoing key ends first. Where a person makes the keys, replacing it does both."""
    if not r.has_outgoing or not seen.can_issue:
        return None
    revoke = seen.operations.get((Kind.REVOKE, Side.OUTGOING))
    if revoke is None:
        return _may_revoke(r, seen, now) or Call(Kind.REVOKE, Side.OUTGOING)
    if revoke.state is OperationState.DONE:
        return None  # that it is dead is proved at the end: now every second counts
    return _until_dead(r, seen, Side.OUTGOING, now)


def _reconcile(r: Snapshot, seen: Observations, now: datetime) -> Action:
    """The provider may have created a key whose answer we never got."""
    found = seen.operations.get((Kind.RECONCILE, Side.INCOMING))
    if found is None or found.state is OperationState.DONE:
        # A reconcile that is done has resolved the unknown issue; a newer unknown one needs its own.
        return Call(Kind.RECONCILE, Side.INCOMING)
    if found.state in IN_FLIGHT or found.state is OperationState.UNKNOWN:
        return _wait_for(found, "finding out whether the provider created a key", r, now)
    if r.attention in ("possible_orphan", "not_rotated"):
        return Wait("a person must look at the provider", _later(r, now), code=r.attention)
    if found.outcome == "not_rotated":
        return Attention("not_rotated", found.message, (Verb.RESUME, Verb.SUPPLY, Verb.ABORT))
    return Attention(
        "possible_orphan",
        "the provider may have created a key that we never received; look there, revoke it, then resume",
        (Verb.RESUME, Verb.SUPPLY, Verb.ABORT),
    )


def _verify(r: Snapshot, seen: Observations, now: datetime) -> Action:
    """The incoming key passes the probe, a garbled one fails it, the outgoing one still passes."""
    if not seen.can_probe:
        return (
            Attention(
                "no_probe",
                "this provider has no probe, so the new key is not verified: check it by hand, then advance",
                (Verb.ADVANCE, Verb.ABORT),
            )
            if not r.advance_asked
            else Enter(Stage.SHIFT, "verified by a person")
        )
    check = seen.operations.get((Kind.VERIFY, Side.INCOMING))
    if check is None:
        return Call(Kind.VERIFY, Side.INCOMING)
    if check.state in IN_FLIGHT or check.state is OperationState.UNKNOWN:
        return _wait_for(check, "the provider to accept the new key", r, now, code="verifying")
    if check.state is OperationState.DONE and check.outcome in ("verified", "outgoing_dead"):
        return Enter(Stage.SHIFT, "the new key passed the probe, a garbled one failed it")
    if check.outcome == "rejected" and not r.no_fallback:
        return Rollback("the provider does not accept the new key")
    return (
        Attention(check.outcome or "verify_failed", check.message, (Verb.RESUME, Verb.ADVANCE, Verb.ABORT))
        if (not r.advance_asked)
        else Enter(Stage.SHIFT, "verified by a person")
    )


def _shift(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action:
    """Climb the steps; each is held for its time and left on a verdict (two passes) or by a person."""
    if not r.has_outgoing:
        return Enter(Stage.MONITOR, "there is no outgoing key to shift from")
    steps = r.policy.steps
    last = len(steps) - 1
    if r.no_fallback:
        if r.weight < 100:
            return SetWeight(last, 100)
        return Enter(Stage.MONITOR, "the provider killed the outgoing key; everybody needs the new one")
    if r.weight < steps[r.step].weight:
        return _raise(r, seen, r.step, now)
    held_until = r.step_entered_at + steps[r.step].hold
    if not r.advance_asked:
        wait = closed(r, now, look=_later(r, now))
        if wait is not None:
            return wait  # the weight stays; both keys go on being judged
        if now < held_until:
            until = min(held_until, _later(r, now))
            return Wait(f"on {r.weight} % until {held_until:%H:%M:%S} UTC", until, code="hold")
        if not _enough_passes(r, verdict):
            return Wait(verdict.reason, _later(r, now), code=verdict.code)
    if r.step < last:
        return _raise(r, seen, r.step + 1, now)
    return Enter(Stage.MONITOR, "the last step was held and passed")


def _raise(r: Snapshot, seen: Observations, step: int, now: datetime) -> Action:
    """The weight of this step; the one that goes past half of the instances may need an approval."""
    weight = r.policy.steps[step].weight
    wait = approval_missing(r, seen, "shift_past_50", _later(r, now)) if passes_half(r, weight) else None
    return wait or SetWeight(step, weight)


def _enough_passes(r: Snapshot, verdict: Verdict) -> bool:
    if r.outgoing_compromised and verdict.kind != "hold":
        return True  # a leaked key must not stay for want of samples
    return verdict.kind == "pass" and r.passes >= PASSES_NEEDED


def _monitor(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action:
    """Enough observed healthy time, then the quiet proof, then the approval to revoke."""
    if not r.has_outgoing:
        return Enter(Stage.SUCCEEDED, "the first version is in place")
    if r.revoke_forced:
        return Enter(Stage.REVOKE, "forced by a person")
    if not r.outgoing_active:
        return Enter(Stage.REVOKE, "the outgoing key is dead already")
    if r.monitored < r.policy.monitor:
        left = r.policy.monitor - r.monitored
        until = min(now + max(left, timedelta(milliseconds=200)), _later(r, now))
        reason = verdict.reason if verdict.kind != "pass" else f"{_hms(left)} more of observed healthy time"
        return Wait(reason, until, code="monitoring" if verdict.kind == "pass" else verdict.code)
    # Also when late reports filled the clock: the present has to look well too, once.
    if verdict.kind != "pass" and (verdict.kind == "hold" or not r.outgoing_compromised):
        return Wait(verdict.reason, _later(r, now), code=verdict.code)
    force_after = r.policy.force_after
    forced = force_after is not None and now >= r.stage_entered_at + force_after
    if seen.offenders and not forced:
        first = seen.offenders[0]
        more = f" (and {len(seen.offenders) - 1} more)" if len(seen.offenders) > 1 else ""
        return Wait(
            f"outgoing version still in use by {first.who}: {first.why}{more}", _later(r, now), code="quiet"
        )
    reason = "quiet time over" if forced else "monitored, and nobody uses the outgoing key"
    return _may_revoke(r, seen, now) or Enter(Stage.REVOKE, reason)


def _may_revoke(r: Snapshot, seen: Observations, now: datetime) -> Wait | None:
    """What the revoke waits for. A key that is known to others does not wait for a window."""
    wait = approval_missing(r, seen, "revoke", _later(r, now))
    return wait if wait is not None or r.outgoing_compromised else closed(r, now, look=_later(r, now))


def _revoke(r: Snapshot, seen: Observations, verdict: Verdict, now: datetime) -> Action:
    """Disable where the provider can, cool off, then revoke; a late use during the cool-off stops it."""
    if not seen.can_disable or r.policy.cool_off == timedelta(0) or r.no_fallback:
        return Call(Kind.REVOKE, Side.OUTGOING)
    disable = seen.operations.get((Kind.DISABLE, Side.OUTGOING))
    if disable is None:
        return Call(Kind.DISABLE, Side.OUTGOING)
    if disable.state in IN_FLIGHT or disable.state is OperationState.UNKNOWN:
        return _wait_for(disable, "the provider to disable the outgoing key", r, now, code="disabling")
    if disable.state is not OperationState.DONE:
        return Attention("disable_failed", disable.message, (Verb.RESUME, Verb.ADVANCE, Verb.ABORT))
    ends = (disable.finished_at or now) + r.policy.cool_off
    if now < ends and not r.advance_asked:
        if seen.outgoing.counts.auth_invalid:
            return Attention(
                "late_use",
                "somebody still calls the provider with the outgoing key, which is disabled now",
                (Verb.ABORT, Verb.ADVANCE),
            )
        return Wait(f"cooling off until {ends:%H:%M:%S} UTC", min(ends, _later(r, now)), code="cool_off")
    return Call(Kind.REVOKE, Side.OUTGOING)


def _finish_revoke(r: Snapshot, seen: Observations, now: datetime) -> Action:
    reason = "the provider refuses the outgoing key" if seen.can_probe else "revoked; no probe can prove it"
    return _until_dead(r, seen, Side.OUTGOING, now) or Enter(Stage.SUCCEEDED, reason)


def _until_dead(r: Snapshot, seen: Observations, side: Side, now: datetime) -> Action | None:
    """1. Ask for the revoke, once. 2. A person must do it. 3. Done, or its answer lost: a probe must find the
    key dead. 4. It lives on after the budget: a person is told. None: it is dead."""
    revoke = seen.operations.get((Kind.REVOKE, side))
    if revoke is None:
        return Call(Kind.REVOKE, side)
    if revoke.state in IN_FLIGHT:
        return _wait_for(revoke, f"the provider to revoke the {side} key", r, now, code="revoking")
    if revoke.state is OperationState.NEEDS_PERSON:
        advice = f"revoke the {side} key at the provider, then confirm it here"
        return Attention("confirm_revoked", advice, (Verb.CONFIRM_REVOKED,))
    if revoke.state is OperationState.FAILED:
        return Attention("revoke_failed", revoke.message, (Verb.RESUME, Verb.CONFIRM_REVOKED))
    if not seen.can_probe:
        return None
    confirm = seen.operations.get((Kind.CONFIRM, side))
    if confirm is None:
        return Call(Kind.CONFIRM, side)
    if confirm.state in IN_FLIGHT or confirm.state is OperationState.UNKNOWN:
        return _wait_for(confirm, f"the provider to refuse the {side} key", r, now, code="confirming")
    if confirm.outcome == "dead":
        return None
    advice = confirm.message or f"the provider still honours the {side} key"
    return Attention("undead_key", advice, (Verb.RESUME, Verb.CONFIRM_REVOKED))


_STAGES: dict[Stage, Callable[[Snapshot, Observations, Verdict, datetime], Action]] = {
    Stage.REQUESTED: _requested,
    Stage.DEPLOY: _deploy,
    Stage.SHIFT: _shift,
    Stage.MONITOR: _monitor,
    Stage.REVOKE: _revoke,
}


# After a rollback ----------------------------------------------------------------------------------


def clean_up(r: Snapshot, seen: Observations, *, due_at: datetime, now: datetime) -> Action | None:
    """What is left to do for a rolled-back rotation: its incoming key must end revoked. None: nothing.

    It is kept, withheld, until ``due_at``, in case somebody must look into what happened.
    """
    if not r.incoming_held:
        return None
    if now < due_at:
        return Wait("the withheld key to be revoked later", due_at, code="withheld")
    if r.attention:
        return Wait("a person must choose", _later(r, now), code=r.attention)
    return _until_dead(r, seen, Side.INCOMING, now)


# Verbs ---------------------------------------------------------------------------------------------


def allowed_verbs(
    r: Snapshot, attention_verbs: tuple[Verb, ...], *, wants_approval: bool
) -> tuple[Verb, ...]:
    """What a person may do now. Everything else is refused with this list."""
    if r.stage in TERMINAL:
        return attention_verbs if r.attention else ()
    verbs: list[Verb] = list(attention_verbs if r.attention else ())
    if wants_approval or (r.stage is Stage.MONITOR and r.has_outgoing):
        verbs.append(Verb.APPROVE)  # in monitor: also one that has to be forced
    if not r.attention and not r.abort_asked:
        verbs.append(Verb.RESUME if r.paused else Verb.PAUSE)
    if r.stage is Stage.DEPLOY and not r.incoming_held:
        verbs.append(Verb.SUPPLY)
    if r.stage is Stage.SHIFT and not r.paused:
        verbs.append(Verb.ADVANCE)
    if r.stage is Stage.MONITOR and r.has_outgoing:
        verbs.append(Verb.FORCE_REVOKE)
    if not r.abort_asked and not (r.revoke_asked and r.stage is Stage.REVOKE):
        verbs.append(Verb.EXTEND)
    if not r.abort_asked and not r.revoke_asked:
        verbs.append(Verb.ABORT)
    if r.stage is Stage.REVOKE and r.revoke_asked:
        verbs.append(Verb.EMERGENCY)
    return tuple(dict.fromkeys(verbs))


def _later(r: Snapshot, now: datetime) -> datetime:
    return now + r.policy.check_every


def _soon(operation: OperationView, r: Snapshot, now: datetime) -> datetime:
    """When an operation in flight is worth another look: its retry time, if that is near."""
    if operation.retry_at is not None and operation.retry_at > now:
        return min(operation.retry_at, now + timedelta(minutes=1))
    return _later(r, now)


def _wait_for(operation: OperationView, what: str, r: Snapshot, now: datetime, code: str = "") -> Wait:
    """Wait for an operation in flight, with what the last try came to; or for what holds it back."""
    if operation.outcome in HELD_BACK:
        return Wait(operation.message, _soon(operation, r, now), code=operation.outcome)
    why = f" ({operation.message})" if operation.tries and operation.message else ""
    return Wait(what + why, _soon(operation, r, now), code=code)


def _hms(span: timedelta) -> str:
    seconds = int(span.total_seconds() + 0.999)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
