"""decide() as a table: (rotation, observations, verdict) -> action."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotation.decide import allowed_verbs, clean_up, decide
from rotation.facts import (
    STAGE_EDGES,
    TERMINAL,
    Attention,
    Call,
    Counts,
    Enter,
    Evidence,
    Kind,
    Observations,
    Offender,
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
from rotation.judge import Verdict
from rotation.policy import CUTOVER, EMERGENCY, STANDARD, Freeze
from rotation.routine import probes_due

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
PASS = Verdict("pass", "healthy", "fine")
FAIL = Verdict("fail", "key_rejected", "rejected 3 times")
SUSPECT = Verdict("suspect", "error_rate", "4 % fail")
HOLD = Verdict("hold", "provider_incident", "both fail")
UNSURE = Verdict("inconclusive", "too_few_samples", "3 of 20")
SEEN = Observations(can_issue=True, can_disable=True, can_revoke=True)


def rotation(stage: Stage = Stage.SHIFT, **changes: Any) -> Snapshot:
    base = Snapshot(
        stage=stage,
        policy=STANDARD,
        step=0,
        weight=5 if stage is Stage.SHIFT else 100 if stage in (Stage.MONITOR, Stage.REVOKE) else 0,
        created_at=NOW - timedelta(hours=3),
        stage_entered_at=NOW - timedelta(hours=1),
        step_entered_at=NOW - timedelta(hours=1),
        deadline_at=NOW + timedelta(days=5),
        incoming_held=stage not in (Stage.REQUESTED, Stage.DEPLOY),
        passes=2,
    )
    return replace(base, **changes)


def having(
    kind: Kind, state: OperationState, outcome: str = "", side: Side = Side.INCOMING, **more: Any
) -> Observations:
    view = OperationView(state, outcome, message="because", finished_at=NOW - timedelta(hours=30), **more)
    return replace(SEEN, operations={(kind, side): view})


def out(kind: Kind, state: OperationState, outcome: str = "", **more: Any) -> Observations:
    return having(kind, state, outcome, Side.OUTGOING, **more)


def both(*parts: Observations) -> Observations:
    merged = {key: view for part in parts for key, view in part.operations.items()}
    return replace(SEEN, operations=merged)


S, K, OP = Stage, Kind, OperationState
MONITORED: dict[str, Any] = {"monitored": timedelta(hours=24)}
LATE: dict[str, Any] = {"deadline_at": NOW}
STRAGGLER = replace(SEEN, offenders=(Offender("billing/web-7", "last seen on v6 13 min ago"),))
FROZEN = replace(STANDARD, freezes=(Freeze(NOW - timedelta(1), NOW + timedelta(1), "holidays"),))
THAWED = replace(STANDARD, freezes=(Freeze(NOW - timedelta(9), NOW - timedelta(8), "long ago"),))
FROZEN_EYES = replace(FROZEN, approvals={"start": 1})
HALF = replace(STANDARD, approvals={"shift_past_50": 1})
ONE_STEP = replace(HALF, steps=STANDARD.steps[-1:])
APPROVED = {"start": 1, "revoke": 1}
FOUR_EYES = replace(STANDARD, approvals={"start": 1, "revoke": 1})
GAP: dict[str, Any] = {"policy": CUTOVER}
AFTER_GAP: dict[str, Any] = {**GAP, "revoke_asked": True, "no_fallback": True, "outgoing_active": False}
FROZEN_GAP = replace(CUTOVER, freezes=FROZEN.freezes)
GAP_EYES = replace(CUTOVER, approvals={"revoke": 1})
FULL = replace(SEEN, quota_full=True)
ISSUE, CONFIRM = Call(Kind.ISSUE, Side.INCOMING), Call(Kind.CONFIRM, Side.OUTGOING)
REVOKED = out(Kind.REVOKE, OperationState.DONE)

TABLE: list[tuple[str, Snapshot, Observations, Verdict, object]] = [
    # requested
    ("starts", rotation(S.REQUESTED), SEEN, PASS, Enter(S.DEPLOY, "started")),
    ("waits for approval", rotation(S.REQUESTED, policy=FOUR_EYES), SEEN, PASS, "approval_start"),
    ("approved", rotation(S.REQUESTED, policy=FOUR_EYES), replace(SEEN, approvals=APPROVED), PASS, S.DEPLOY),
    ("frozen", rotation(S.REQUESTED, policy=FROZEN), SEEN, PASS, "window"),
    (
        "approved, frozen",
        rotation(S.REQUESTED, policy=FROZEN_EYES),
        replace(SEEN, approvals=APPROVED),
        PASS,
        "window",
    ),
    # deploy: issue
    ("asks for a key", rotation(S.DEPLOY), SEEN, PASS, Call(K.ISSUE, Side.INCOMING)),
    ("asks once", rotation(S.DEPLOY), having(K.ISSUE, OP.PENDING), PASS, "issuing"),
    ("asks once", rotation(S.DEPLOY), having(K.ISSUE, OP.RUNNING), PASS, "issuing"),
    ("lost answer", rotation(S.DEPLOY), having(K.ISSUE, OP.UNKNOWN), PASS, Call(K.RECONCILE, Side.INCOMING)),
    ("manual", rotation(S.DEPLOY), having(K.ISSUE, OP.NEEDS_PERSON), PASS, ("supply_key", Verb.SUPPLY)),
    ("refused", rotation(S.DEPLOY), having(K.ISSUE, OP.FAILED, "refused"), PASS, ("refused", Verb.RESUME)),
    ("no room", rotation(S.DEPLOY), replace(SEEN, quota_full=True), PASS, ("quota_full", Verb.RESUME)),
    (
        "orphan",
        rotation(S.DEPLOY),
        both(having(K.ISSUE, OP.UNKNOWN), having(K.RECONCILE, OP.FAILED)),
        PASS,
        ("possible_orphan", Verb.SUPPLY),
    ),
    # deploy: one key at a time
    ("the old one ends first", rotation(S.DEPLOY, **GAP), SEEN, PASS, Call(K.REVOKE, Side.OUTGOING)),
    ("a full quota is no obstacle", rotation(S.DEPLOY, **GAP), FULL, PASS, Call(K.REVOKE, Side.OUTGOING)),
    ("there is no old one", rotation(S.DEPLOY, **GAP, has_outgoing=False), SEEN, PASS, ISSUE),
    ("a person replaces it", rotation(S.DEPLOY, **GAP), replace(SEEN, can_issue=False), PASS, ISSUE),
    (
        "a person replaces it",
        rotation(S.DEPLOY, **GAP),
        having(K.ISSUE, OP.NEEDS_PERSON),
        PASS,
        ("replace_key", Verb.SUPPLY),
    ),
    ("not in a freeze", rotation(S.DEPLOY, policy=FROZEN_GAP), SEEN, PASS, "window"),
    (
        "a leaked one ends in a freeze too",
        rotation(S.DEPLOY, policy=FROZEN_GAP, outgoing_compromised=True),
        SEEN,
        PASS,
        Call(K.REVOKE, Side.OUTGOING),
    ),
    ("its revoke is approved first", rotation(S.DEPLOY, policy=GAP_EYES), SEEN, PASS, "approval_revoke"),
    ("it is ending", rotation(S.DEPLOY, **AFTER_GAP), out(K.REVOKE, OP.RUNNING), PASS, "revoking"),
    ("its end is nobody's word", rotation(S.DEPLOY, **AFTER_GAP), out(K.REVOKE, OP.UNKNOWN), PASS, CONFIRM),
    (
        "a person must end it",
        rotation(S.DEPLOY, **AFTER_GAP),
        out(K.REVOKE, OP.NEEDS_PERSON),
        PASS,
        ("confirm_revoked", Verb.CONFIRM_REVOKED),
    ),
    (
        "it could not be ended",
        rotation(S.DEPLOY, **AFTER_GAP),
        out(K.REVOKE, OP.FAILED, "refused"),
        PASS,
        ("revoke_failed", Verb.RESUME),
    ),
    ("it has ended", rotation(S.DEPLOY, **AFTER_GAP), REVOKED, PASS, ISSUE),
    (
        "the new one is not accepted, and there is no old one",
        rotation(S.DEPLOY, **AFTER_GAP, incoming_held=True),
        both(REVOKED, having(K.VERIFY, OP.FAILED, "rejected")),
        PASS,
        ("rejected", Verb.RESUME),
    ),
    (
        "everybody gets the new one at once",
        rotation(S.SHIFT, **AFTER_GAP, weight=0, passes=0),
        REVOKED,
        UNSURE,
        SetWeight(0, 100),
    ),
    ("nothing is left to watch", rotation(S.MONITOR, **AFTER_GAP), REVOKED, UNSURE, S.REVOKE),
    ("it must be dead in the end", rotation(S.REVOKE, **AFTER_GAP), REVOKED, PASS, CONFIRM),
    # deploy: verify
    ("verifies", rotation(S.DEPLOY, incoming_held=True), SEEN, PASS, Call(K.VERIFY, Side.INCOMING)),
    (
        "verified",
        rotation(S.DEPLOY, incoming_held=True),
        having(K.VERIFY, OP.DONE, "verified"),
        PASS,
        S.SHIFT,
    ),
    (
        "issuing killed the old key",
        rotation(S.DEPLOY, incoming_held=True),
        having(K.VERIFY, OP.DONE, "outgoing_dead"),
        PASS,
        S.SHIFT,
    ),
    (
        "not accepted",
        rotation(S.DEPLOY, incoming_held=True),
        having(K.VERIFY, OP.FAILED, "rejected"),
        PASS,
        Rollback,
    ),
    (
        "verifier broken",
        rotation(S.DEPLOY, incoming_held=True),
        having(K.VERIFY, OP.FAILED, "verifier_broken"),
        PASS,
        ("verifier_broken", Verb.ABORT),
    ),
    (
        "no probe",
        rotation(S.DEPLOY, incoming_held=True),
        replace(SEEN, can_probe=False),
        PASS,
        ("no_probe", Verb.ADVANCE),
    ),
    (
        "no probe, a person vouches",
        rotation(S.DEPLOY, incoming_held=True, advance_asked=True),
        replace(SEEN, can_probe=False),
        PASS,
        S.SHIFT,
    ),
    # shift
    ("first weight", rotation(weight=0), SEEN, UNSURE, SetWeight(0, 5)),
    ("held", rotation(step_entered_at=NOW - timedelta(minutes=9)), SEEN, PASS, "hold"),
    ("next step", rotation(), SEEN, PASS, SetWeight(1, 25)),
    ("one pass is too few", rotation(passes=1), SEEN, PASS, "healthy"),
    ("inconclusive", rotation(), SEEN, UNSURE, "too_few_samples"),
    ("incident holds", rotation(), SEEN, HOLD, "provider_incident"),
    ("frozen in shift holds, never back", rotation(policy=FROZEN), SEEN, PASS, "window"),
    ("half needs nobody", rotation(step=1, weight=25, policy=HALF), SEEN, PASS, SetWeight(2, 50)),
    ("past half", rotation(step=2, weight=50, policy=HALF), SEEN, PASS, "approval_shift_past_50"),
    ("past half in one step", rotation(weight=0, policy=ONE_STEP), SEEN, PASS, "approval_shift_past_50"),
    (
        "past half, hurried",
        rotation(step=2, weight=50, policy=HALF, advance_asked=True),
        SEEN,
        PASS,
        "approval_shift_past_50",
    ),
    (
        "past half, approved",
        rotation(step=2, weight=50, policy=HALF),
        replace(SEEN, approvals={"shift_past_50": 1}),
        PASS,
        SetWeight(3, 100),
    ),
    ("past half, rejected", rotation(step=2, weight=50, policy=HALF), SEEN, FAIL, Rollback),
    ("frozen in shift, rejected", rotation(policy=FROZEN), SEEN, FAIL, Rollback),
    ("frozen, a person hurries", rotation(policy=FROZEN, advance_asked=True), SEEN, PASS, SetWeight(1, 25)),
    ("frozen time is not late", rotation(policy=FROZEN, **LATE), SEEN, PASS, "window"),
    ("late although it was frozen", rotation(policy=THAWED, **LATE), SEEN, PASS, ("overdue", Verb.EXTEND)),
    ("last step done", rotation(step=3, weight=100), SEEN, PASS, S.MONITOR),
    ("a person hurries", rotation(advance_asked=True, passes=0), SEEN, UNSURE, SetWeight(1, 25)),
    ("rejected", rotation(), SEEN, FAIL, Rollback),
    ("rejected while paused", rotation(paused=True), SEEN, FAIL, Rollback),
    ("one failed check", rotation(failed_checks=1), SEEN, SUSPECT, "error_rate"),
    ("three failed checks", rotation(failed_checks=3), SEEN, SUSPECT, Rollback),
    ("three failed checks, then a pass", rotation(failed_checks=3), SEEN, PASS, SetWeight(1, 25)),
    ("paused", rotation(paused=True), SEEN, PASS, "paused"),
    ("attention", rotation(attention="affinity"), SEEN, PASS, "affinity"),
    ("late", rotation(**LATE), SEEN, UNSURE, ("overdue", Verb.EXTEND)),
    (
        "nothing safe to go back to",
        rotation(outgoing_compromised=True),
        SEEN,
        FAIL,
        ("no_safe_version", Verb.EMERGENCY),
    ),
    ("no fallback: everybody at once", rotation(no_fallback=True), SEEN, UNSURE, SetWeight(3, 100)),
    ("no fallback, rejected", rotation(no_fallback=True), SEEN, FAIL, ("no_fallback", Verb.EMERGENCY)),
    ("first version", rotation(has_outgoing=False, weight=0), SEEN, UNSURE, S.MONITOR),
    # monitor
    ("clock runs", rotation(S.MONITOR, monitored=timedelta(hours=1)), SEEN, PASS, "monitoring"),
    ("clock stands", rotation(S.MONITOR, monitored=timedelta(hours=1)), SEEN, UNSURE, "too_few_samples"),
    ("quiet and approved", rotation(S.MONITOR, **MONITORED), SEEN, PASS, S.REVOKE),
    ("one second short", rotation(S.MONITOR, monitored=timedelta(seconds=86399)), SEEN, PASS, "monitoring"),
    ("straggler", rotation(S.MONITOR, **MONITORED), STRAGGLER, PASS, "quiet"),
    (
        "straggler, late",
        rotation(S.MONITOR, **MONITORED, **LATE),
        STRAGGLER,
        PASS,
        ("stragglers", Verb.FORCE_REVOKE),
    ),
    ("approval to revoke", rotation(S.MONITOR, policy=FOUR_EYES, **MONITORED), SEEN, PASS, "approval_revoke"),
    ("incident before revoke", rotation(S.MONITOR, **MONITORED), SEEN, HOLD, "provider_incident"),
    ("frozen before revoke", rotation(S.MONITOR, policy=FROZEN, **MONITORED), SEEN, PASS, "window"),
    ("forced", rotation(S.MONITOR, revoke_forced=True), STRAGGLER, PASS, S.REVOKE),
    ("rejected in monitor", rotation(S.MONITOR, **MONITORED), SEEN, FAIL, Rollback),
    ("first version done", rotation(S.MONITOR, has_outgoing=False), SEEN, UNSURE, S.SUCCEEDED),
    (
        "emergency waits for stragglers",
        rotation(S.MONITOR, policy=EMERGENCY, stage_entered_at=NOW),
        STRAGGLER,
        PASS,
        "quiet",
    ),
    ("emergency, but not for ever", rotation(S.MONITOR, policy=EMERGENCY), STRAGGLER, PASS, S.REVOKE),
    # revoke
    ("disables first", rotation(S.REVOKE), SEEN, PASS, Call(K.DISABLE, Side.OUTGOING)),
    (
        "cannot disable",
        rotation(S.REVOKE),
        replace(SEEN, can_disable=False),
        PASS,
        Call(K.REVOKE, Side.OUTGOING),
    ),
    ("cooled off", rotation(S.REVOKE), out(K.DISABLE, OP.DONE), PASS, Call(K.REVOKE, Side.OUTGOING)),
    ("asked", rotation(S.REVOKE, revoke_asked=True), out(K.REVOKE, OP.RUNNING), PASS, "revoking"),
    (
        "by hand",
        rotation(S.REVOKE, revoke_asked=True),
        out(K.REVOKE, OP.NEEDS_PERSON),
        PASS,
        ("confirm_revoked", Verb.CONFIRM_REVOKED),
    ),
    (
        "proves it",
        rotation(S.REVOKE, revoke_asked=True),
        out(K.REVOKE, OP.DONE),
        PASS,
        Call(K.CONFIRM, Side.OUTGOING),
    ),
    (
        "unknown: proves it",
        rotation(S.REVOKE, revoke_asked=True),
        out(K.REVOKE, OP.UNKNOWN),
        PASS,
        Call(K.CONFIRM, Side.OUTGOING),
    ),
    (
        "dead",
        rotation(S.REVOKE, revoke_asked=True),
        both(out(K.REVOKE, OP.DONE), out(K.CONFIRM, OP.DONE, "dead")),
        PASS,
        S.SUCCEEDED,
    ),
    (
        "undead",
        rotation(S.REVOKE, revoke_asked=True),
        both(out(K.REVOKE, OP.DONE), out(K.CONFIRM, OP.DONE, "alive")),
        PASS,
        ("undead_key", Verb.CONFIRM_REVOKED),
    ),
    (
        "no way back after the revoke was asked",
        rotation(S.REVOKE, revoke_asked=True, abort_asked=True),
        out(K.REVOKE, OP.RUNNING),
        FAIL,
        "revoking",
    ),
    # abort
    ("abort before anything", rotation(S.REQUESTED, abort_asked=True), SEEN, PASS, S.CANCELLED),
    ("abort while issuing", rotation(S.DEPLOY, abort_asked=True), having(K.ISSUE, OP.RUNNING), PASS, ""),
    (
        "abort, lost answer",
        rotation(S.DEPLOY, abort_asked=True),
        having(K.ISSUE, OP.UNKNOWN),
        PASS,
        Call(K.RECONCILE, Side.INCOMING),
    ),
    ("abort with a key", rotation(S.DEPLOY, abort_asked=True, incoming_held=True), SEEN, PASS, Rollback),
    ("abort in shift", rotation(abort_asked=True), SEEN, PASS, Rollback),
    ("abort in monitor", rotation(S.MONITOR, abort_asked=True), SEEN, PASS, Rollback),
    (
        "abort while disabled",
        rotation(S.REVOKE, abort_asked=True, outgoing_active=False, outgoing_disabled=True),
        SEEN,
        PASS,
        Call(K.ENABLE, Side.OUTGOING),
    ),
    (
        "abort when the old key is dead",
        rotation(abort_asked=True, outgoing_active=False),
        SEEN,
        PASS,
        ("no_fallback", Verb.EMERGENCY),
    ),
]


@pytest.mark.parametrize(
    ("case", "state", "seen", "verdict", "expected"), TABLE, ids=[row[0] for row in TABLE]
)
def test_decide(case: str, state: Snapshot, seen: Observations, verdict: Verdict, expected: object) -> None:
    action = decide(state, seen, verdict, NOW)
    if isinstance(expected, Stage):
        assert isinstance(action, Enter)
        assert action.stage is expected
    elif isinstance(expected, str):
        assert isinstance(action, Wait)
        assert action.code == expected
        assert action.reason
        assert action.until > NOW
    elif isinstance(expected, tuple):
        code, verb = expected
        assert isinstance(action, Attention)
        assert action.code == code
        assert verb in action.verbs
    elif expected is Rollback:
        assert isinstance(action, Rollback)
        assert action.reason
    else:
        assert action == expected


def test_every_stage_that_decide_may_enter_is_a_legal_edge() -> None:
    for _, state, seen, verdict, _ in TABLE:
        action = decide(state, seen, verdict, NOW)
        if isinstance(action, Enter):
            assert (state.stage, action.stage) in STAGE_EDGES
        if isinstance(action, Rollback):
            assert (state.stage, Stage.ROLLED_BACK) in STAGE_EDGES


def test_terminal_stages_have_no_way_out() -> None:
    assert not {old for old, _ in STAGE_EDGES} & TERMINAL


def test_a_disabled_key_that_somebody_still_uses_stops_the_revoke() -> None:
    seen = replace(out(Kind.DISABLE, OperationState.DONE), outgoing=Evidence(counts=Counts(auth_invalid=1)))
    view = replace(seen.operations[(Kind.DISABLE, Side.OUTGOING)], finished_at=NOW - timedelta(hours=1))
    seen = replace(seen, operations={(Kind.DISABLE, Side.OUTGOING): view})
    action = decide(rotation(Stage.REVOKE), seen, PASS, NOW)
    assert isinstance(action, Attention)
    assert action.code == "late_use"
    assert Verb.ABORT in action.verbs


def test_both_keys_are_probed_on_their_interval() -> None:
    assert probes_due(rotation(), SEEN, NOW) == (Side.INCOMING, Side.OUTGOING)
    fresh = Evidence(probe="accepted", probe_at=NOW - timedelta(minutes=4, seconds=59))
    assert probes_due(rotation(), replace(SEEN, incoming=fresh, outgoing=fresh), NOW) == ()
    assert probes_due(rotation(no_fallback=True), SEEN, NOW) == (Side.INCOMING,)
    assert probes_due(rotation(Stage.REVOKE), SEEN, NOW) == ()


def test_what_has_touched_nothing_sleeps_until_the_next_opening() -> None:
    """In shift both keys go on being judged, so that one is looked at again soon."""
    opening = NOW + timedelta(days=1)
    action = decide(rotation(Stage.REQUESTED, policy=FROZEN), SEEN, PASS, NOW)
    assert isinstance(action, Wait)
    assert action.until == opening
    assert f"{opening:%Y-%m-%d %H:%M} UTC" in action.reason
    held = decide(rotation(policy=FROZEN), SEEN, PASS, NOW)
    assert isinstance(held, Wait)
    assert held.until == NOW + STANDARD.check_every
    assert f"{opening:%Y-%m-%d %H:%M} UTC" in held.reason
    asking = decide(rotation(Stage.REQUESTED, policy=FOUR_EYES), SEEN, PASS, NOW)
    assert isinstance(asking, Wait)
    assert asking.until == NOW + timedelta(hours=1)


def test_an_approval_that_counts_no_more_is_told_of() -> None:
    seen = replace(SEEN, lapsed={"start": "the approval of ann has expired"})
    action = decide(rotation(Stage.REQUESTED, policy=FOUR_EYES), seen, PASS, NOW)
    assert isinstance(action, Wait)
    assert action.reason == "1 more approval(s) to start (the approval of ann has expired)"


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        (rotation(Stage.REQUESTED), {Verb.PAUSE, Verb.ABORT, Verb.EXTEND}),
        (rotation(Stage.DEPLOY), {Verb.PAUSE, Verb.ABORT, Verb.EXTEND, Verb.SUPPLY}),
        (rotation(), {Verb.PAUSE, Verb.ADVANCE, Verb.ABORT, Verb.EXTEND}),
        (rotation(paused=True), {Verb.RESUME, Verb.ABORT, Verb.EXTEND}),
        (rotation(Stage.MONITOR), {Verb.PAUSE, Verb.APPROVE, Verb.FORCE_REVOKE, Verb.ABORT, Verb.EXTEND}),
        (rotation(Stage.REVOKE, revoke_asked=True), {Verb.PAUSE, Verb.EMERGENCY}),
        (rotation(Stage.SUCCEEDED), set()),
    ],
)
def test_verbs_per_stage(state: Snapshot, verbs: set[Verb]) -> None:
    assert set(allowed_verbs(state, (), wants_approval=False)) == verbs


@pytest.mark.parametrize(
    ("seen", "due", "expected"),
    [
        (SEEN, NOW + timedelta(hours=1), "withheld"),
        (SEEN, NOW, Call(Kind.REVOKE, Side.INCOMING)),
        (having(Kind.REVOKE, OperationState.RUNNING), NOW, "revoking"),
        (having(Kind.REVOKE, OperationState.DONE), NOW, Call(Kind.CONFIRM, Side.INCOMING)),
        (
            both(having(Kind.REVOKE, OperationState.DONE), having(Kind.CONFIRM, OperationState.DONE, "dead")),
            NOW,
            None,
        ),
        (
            both(
                having(Kind.REVOKE, OperationState.DONE), having(Kind.CONFIRM, OperationState.DONE, "alive")
            ),
            NOW,
            "undead_key",
        ),
        (having(Kind.REVOKE, OperationState.NEEDS_PERSON), NOW, "confirm_revoked"),
    ],
)
def test_a_rolled_back_rotation_ends_with_its_key_revoked(
    seen: Observations, due: datetime, expected: object
) -> None:
    action = clean_up(rotation(Stage.ROLLED_BACK, incoming_held=True), seen, due_at=due, now=NOW)
    if isinstance(expected, str):
        assert isinstance(action, Wait | Attention)
        assert action.code == expected
    else:
        assert action == expected


@pytest.mark.parametrize("stage", [Stage.DEPLOY, Stage.SHIFT, Stage.MONITOR])
def test_after_the_old_key_of_a_cutover_there_is_no_abort_but_more_time(stage: Stage) -> None:
    verbs = allowed_verbs(rotation(stage, **AFTER_GAP), (), wants_approval=False)
    assert Verb.ABORT not in verbs
    assert Verb.EXTEND in verbs
