"""Rows -> Observations. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

from keyvault import readers
from keyvault.domain import Instance, Label, Split, State, choose
from keyvault.models import KeyVersion, UsageLine
from rotation import counting, proof, specs
from rotation.approvals import approvals_of, counted, lapses
from rotation.counting import Line
from rotation.facts import (
    ROUTINE,
    Counts,
    Evidence,
    Kind,
    Observations,
    OperationState,
    OperationView,
    Shares,
    Side,
    Snapshot,
    Stage,
)
from rotation.models import Operation, Rotation
from rotation.policy import APPROVALS, Policy, from_json

ROUTINE_CALLS = ((Kind.PROBE, Side.INCOMING), (Kind.PROBE, Side.OUTGOING), (Kind.INSPECT, Side.OUTGOING))


def snapshot(rotation: Rotation) -> Snapshot:
    """The row and its two versions as a value."""
    outgoing, incoming = rotation.outgoing, rotation.incoming
    return Snapshot(
        stage=Stage(rotation.stage),
        policy=from_json(rotation.policy),
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


def observe(rotation: Rotation, now: datetime) -> Observations:
    """Everything that one decision about this rotation needs (a constant number of queries)."""
    policy = from_json(rotation.policy)
    provider = rotation.key.service.provider
    able = specs.capabilities(provider)
    operations = _operations(rotation)
    lines, reporting = _lines(rotation, policy, now)
    shifting = rotation.stage in (Stage.SHIFT, Stage.MONITOR, Stage.REVOKE)
    given = readers.given(rotation.key_id, now - _activity_span(policy))
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
    given_approvals = approvals_of(rotation, now)
    return Observations(
        incoming=incoming,
        outgoing=outgoing,
        baseline=Counts(
            ok=rotation.baseline_requests - rotation.baseline_errors, server_error=rotation.baseline_errors
        ),
        silent=_silent(rotation, policy, reporting, now) if shifting else (),
        instances=len(active),
        assigned=len(assigned),
        offenders=proof.offenders(rotation, policy, now) if rotation.stage == Stage.MONITOR else (),
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
        quota_full=_quota_full(rotation),
    )


def _activity_span(policy: Policy) -> timedelta:
    return max(policy.window, 3 * policy.refresh)


def _operations(rotation: Rotation) -> dict[tuple[Kind, Side], OperationView]:
    """The latest operation of each kind and side that no person superseded."""
    rows = Operation.objects.filter(rotation=rotation, superseded=False)
    latest = rows.exclude(kind__in=ROUTINE).order_by("created_at")
    views = {(Kind(row.kind), Side(row.side)): _view(row) for row in latest}
    for kind, side in ROUTINE_CALLS:
        last = rows.filter(kind=kind, side=side).order_by("-created_at").first()
        if last is not None:
            views[(kind, side)] = _view(last)
    return views


def _view(row: Operation) -> OperationView:
    return OperationView(
        state=OperationState(row.state),
        outcome=row.outcome,
        message=row.message,
        retry_at=row.retry_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        tries=row.tries,
    )


def _lines(rotation: Rotation, policy: Policy, now: datetime) -> tuple[dict[Side, list[Line]], set[Instance]]:
    """The lines of both versions in the window, and the instances that reported them."""
    ids = {Side.INCOMING: rotation.incoming_id, Side.OUTGOING: rotation.outgoing_id}
    versions = [version_id for version_id in ids.values() if version_id is not None]
    told = counting.reported(versions, now - policy.window)
    reporting = {line.place for lines in told.values() for line in lines}
    if rotation.key.service.provider.driver == "generated":
        for version_id, lines in counting.verified(versions, now - policy.window).items():
            told.setdefault(version_id, []).extend(lines)
    return {side: told.get(pk, []) if pk else [] for side, pk in ids.items()}, reporting


def _silent(rotation: Rotation, policy: Policy, reporting: set[Instance], now: datetime) -> tuple[str, ...]:
    """Instances that reported in the two windows before, and not in this one."""
    versions = [pk for pk in (rotation.incoming_id, rotation.outgoing_id) if pk is not None]
    before = (
        UsageLine.objects.filter(
            version_id__in=versions, to_at__gt=now - 3 * policy.window, to_at__lte=now - policy.window
        )
        .order_by()
        .values_list("consumer__slug", "instance")
        .distinct()
    )
    return tuple(sorted(f"{consumer}/{name}" for consumer, name in set(before) - reporting))


def _assigned(rotation: Rotation, active: set[Instance], now: datetime) -> set[Instance]:
    """The active instances that fall to the incoming version: delivery's own choice, asked of all of them."""
    key, held = rotation.key, proof.held_by_jobs(rotation, rotation.outgoing, now)
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


def _quota_full(rotation: Rotation) -> bool:
    """Whether the provider allows no further key. Counted per key: an account per environment is the rule."""
    limit = rotation.key.service.provider.max_keys
    if limit is None:
        return False
    live = KeyVersion.objects.filter(key=rotation.key_id, state__in=[State.ACTIVE, State.DISABLED])
    return live.count() >= limit
