"""Rows -> Observations. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

from keyvault import readers
from keyvault.domain import Instance, Label, Split, State, choose
from rotation import counting, specs
from rotation.approvals import approvals_of, counted, lapses
from rotation.counting import Line
from rotation.facts import (
    Counts,
    Evidence,
    Kind,
    Observations,
    Shares,
    Side,
    Snapshot,
    Stage,
)
from rotation.gather import Gathered, activity_span, gather
from rotation.models import Rotation
from rotation.policy import APPROVALS, Policy, kept
from rotation.proof import held_by_jobs, offenders


def snapshot(rotation: Rotation) -> Snapshot:
    """The row and its two versions as a value."""
    outgoing, incoming = rotation.outgoing, rotation.incoming
    return Snapshot(
        stage=Stage(rotation.stage),
        policy=kept(rotation.policy),
        step=rotation.step,
        weight=rotation.weight,
        created_at=rotation.created_at,
        stage_entered_at=rotation.stage_entered_at,
        step_entered_at=rotation.step_entered_at,
        deadline_at=rotation.deadline_at,
        has_outgoing=outgoing is not None,
        outgoing_active=outgoing is not None
        and outgoing.state == State.ACTIVE
        and outgoing.withheld_at is None,
        outgoing_disabled=outgoing is not None and outgoing.state == State.DISABLED,
        outgoing_compromised=outgoing is not None and outgoing.compromised_at is not None,
        incoming_held=incoming is not None and incoming.ciphertext is not None,
        paused=rotation.paused,
        attention=rotation.attention,
        abort_asked=rotation.abort_asked_at is not None,
        advance_asked=rotation.advance_asked_at is not None,
        revoke_asked=rotation.revoke_asked_at is not None,
        revoke_forced=rotation.force_asked_at is not None,
        no_fallback=rotation.no_fallback,
        passes=rotation.passes,
        failed_checks=rotation.failed_checks,
        monitored=timedelta(seconds=rotation.monitored_seconds),
    )


def observe(
    rotation: Rotation, now: datetime, gathered: Gathered | None = None, *, proof: bool = True
) -> Observations:
    """Everything that one decision about this rotation needs (a constant number of queries).

    ``gathered`` is what was asked for several rotations at once, this one among them. Without ``proof`` it
    names nobody who stands against the revoke; only before the end of monitoring no decision needs that.
    """
    gathered = gathered or gather([rotation], now)
    policy = kept(rotation.policy)
    provider = rotation.key.service.provider
    able = specs.capabilities(provider)
    operations = gathered.operations.get(rotation.id, {})
    lines, reporting = _lines(rotation, policy, gathered)
    shifting = rotation.stage in (Stage.SHIFT, Stage.MONITOR, Stage.REVOKE)
    given = gathered.given[activity_span(policy)].get(rotation.key_id, [])
    active = {(one.consumer, one.instance) for one in given} if shifting else set()
    assigned = _assigned(rotation, active, now) if active else set()
    peers = {Side.INCOMING: len(assigned), Side.OUTGOING: len(active - assigned)}
    incoming, outgoing = (
        counting.fold(
            lines[side],
            peers=peers[side],
            min_samples=policy.min_samples,
            probe=operations.get((Kind.PROBE, side)),
        )
        for side in (Side.INCOMING, Side.OUTGOING)
    )
    given_approvals = approvals_of(rotation, now) if rotation.id in gathered.approved else ()
    return Observations(
        incoming=incoming,
        outgoing=outgoing,
        baseline=Counts(
            ok=rotation.baseline_requests - rotation.baseline_errors, server_error=rotation.baseline_errors
        ),
        silent=_silent(rotation, policy, gathered, reporting) if shifting else (),
        instances=len(active),
        assigned=len(assigned),
        offenders=offenders(rotation, policy, now) if proof and rotation.stage == Stage.MONITOR else (),
        shares=_shares(rotation, active, assigned, given, (incoming, outgoing)),
        operations=operations,
        approvals={transition: counted(given_approvals, transition) for transition in APPROVALS},
        lapsed=lapses(given_approvals),
        can_issue=able.issue,
        can_disable=able.disable and bool(rotation.outgoing and rotation.outgoing.provider_key_id)
        if provider.driver == "http"
        else able.disable,
        can_revoke=able.revoke,
        can_probe=specs.can_probe(provider),
        can_inspect=rotation.outgoing is not None and specs.can_inspect(provider, rotation.outgoing),
        quota_full=_quota_full(rotation, gathered),
    )


def _lines(
    rotation: Rotation, policy: Policy, gathered: Gathered
) -> tuple[dict[Side, list[Line]], set[Instance]]:
    """The lines of both versions in the window, and the instances that reported them."""
    reported, verified = gathered.reported[policy.window], gathered.verified[policy.window]
    lines: dict[Side, list[Line]] = {}
    reporting: set[Instance] = set()
    for side, version_id in _sides(rotation).items():
        told = reported.get(version_id, [])
        reporting |= {line.place for line in told}
        lines[side] = [*told, *verified.get(version_id, [])]
    return {side: lines.get(side, []) for side in Side}, reporting


def _sides(rotation: Rotation) -> dict[Side, uuid.UUID]:
    ids = {Side.INCOMING: rotation.incoming_id, Side.OUTGOING: rotation.outgoing_id}
    return {side: version_id for side, version_id in ids.items() if version_id is not None}


def _silent(
    rotation: Rotation, policy: Policy, gathered: Gathered, reporting: set[Instance]
) -> tuple[str, ...]:
    """Instances that reported in the two windows before, and not in this one."""
    told = gathered.before[policy.window]
    before = set().union(*(told.get(version_id, ()) for version_id in _sides(rotation).values()))
    return tuple(sorted("/".join(place) for place in before - reporting))


def _assigned(rotation: Rotation, active: set[Instance], now: datetime) -> set[Instance]:
    """The active instances that fall to the incoming version: delivery's own choice, asked of all of them."""
    key, held = rotation.key, held_by_jobs(rotation, rotation.outgoing, now)
    split = None
    if rotation.stage == Stage.SHIFT:
        split = Split(rotation.weight, bytes(rotation.salt), frozenset(key.canaries), frozenset(key.pinned))
    wanted = Label.PENDING if split is not None else Label.CURRENT
    return {
        (consumer, name)
        for consumer, name in active
        if choose(split, consumer, name, holds_outgoing_jobs=(consumer, name) in held) is wanted
    }


def _shares(
    rotation: Rotation,
    active: set[Instance],
    assigned: set[Instance],
    given: Iterable[readers.Reader],
    evidence: tuple[Evidence, Evidence],
) -> Shares:
    target = 100 if rotation.stage in (Stage.MONITOR, Stage.REVOKE, Stage.SUCCEEDED) else rotation.weight
    incoming, outgoing = evidence
    counted: dict[uuid.UUID | None, int] = {}
    for one in given:
        counted[one.version_id] = counted.get(one.version_id, 0) + one.deliveries
    new, old = counted.get(rotation.incoming_id, 0), counted.get(rotation.outgoing_id, 0)
    return Shares(
        target=target,
        assigned=_percent(len(assigned), len(active)),
        delivered=_percent(new, new + old),
        observed=_percent(incoming.counts.total, incoming.counts.total + outgoing.counts.total),
    )


def _percent(part: int, total: int) -> float | None:
    return round(100 * part / total, 1) if total else None


def _quota_full(rotation: Rotation, gathered: Gathered) -> bool:
    """Whether the provider allows no further key. Counted per key: an account per environment is the rule."""
    limit = rotation.key.service.provider.max_keys
    return limit is not None and gathered.live.get(rotation.key_id, 0) >= limit
