"""Rows -> Observations. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Max, Q, Sum

from keyvault import jobs, readers, verifiers
from keyvault.domain import Instance, Split, State, gets_pending
from keyvault.models import KeyVersion, UsageLine
from keyvault.models.activity import OUTCOMES
from rotation import specs
from rotation.approvals import approvals_of, counted, lapses
from rotation.facts import (
    FAILURES,
    Clause,
    Counts,
    Evidence,
    Kind,
    Observations,
    Offender,
    OperationState,
    OperationView,
    Shares,
    Side,
    Snapshot,
    Stage,
)
from rotation.models import Operation, Rotation
from rotation.policy import APPROVALS, Policy, from_json

ACTIVE_INSTANCE = timedelta(days=7)


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
    incoming, outgoing, reporting = _evidence(rotation, policy, operations, now)
    shifting = rotation.stage in (Stage.SHIFT, Stage.MONITOR, Stage.REVOKE)
    given = readers.given(rotation.key_id, now - _activity_span(policy))
    active = {(one.consumer, one.instance) for one in given} if shifting else set()
    assigned = _assigned(rotation, active)
    given_approvals = approvals_of(rotation, now)
    return Observations(
        incoming=incoming,
        outgoing=outgoing,
        silent=_silent(rotation, policy, reporting, now) if shifting else (),
        instances=len(active),
        assigned=len(assigned),
        offenders=offenders(rotation, policy, now) if rotation.stage == Stage.MONITOR else (),
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
        quota_full=_quota_full(rotation),
    )


def _activity_span(policy: Policy) -> timedelta:
    return max(policy.window, 3 * policy.refresh)


def _operations(rotation: Rotation) -> dict[tuple[Kind, Side], OperationView]:
    """The latest operation of each kind and side that no person superseded."""
    rows = Operation.objects.filter(rotation=rotation, superseded=False)
    latest = rows.exclude(kind=Kind.PROBE).order_by("created_at")
    views = {(Kind(row.kind), Side(row.side)): _view(row) for row in latest}
    for side in Side:
        probe = rows.filter(kind=Kind.PROBE, side=side).order_by("-created_at").first()
        if probe is not None:
            views[(Kind.PROBE, side)] = _view(probe)
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


def _evidence(
    rotation: Rotation, policy: Policy, operations: dict[tuple[Kind, Side], OperationView], now: datetime
) -> tuple[Evidence, Evidence, set[Instance]]:
    sums = {name: Sum(name) for name in OUTCOMES}
    versions = [v for v in (rotation.incoming_id, rotation.outgoing_id) if v is not None]
    rows = (
        UsageLine.objects.filter(version_id__in=versions, to_at__gt=now - policy.window)
        .values("version_id", "consumer__slug", "instance", "credential")
        .annotate(**sums)
    )
    by_version: dict[uuid.UUID, list[Mapping[str, Any]]] = {}
    reporting: set[Instance] = set()
    for row in rows:
        by_version.setdefault(row["version_id"], []).append(row)
        reporting.add((row["consumer__slug"], row["instance"]))
    sides = []
    for side, version_id in ((Side.INCOMING, rotation.incoming_id), (Side.OUTGOING, rotation.outgoing_id)):
        lines = by_version.get(version_id, []) if version_id else []
        probe = operations.get((Kind.PROBE, side))
        done = probe is not None and probe.state is OperationState.DONE
        sides.append(
            _fold(
                lines, probe.outcome if probe and done else "", probe.finished_at if probe and done else None
            )
        )
    return sides[0], sides[1], reporting


def _fold(lines: Iterable[Mapping[str, Any]], probe: str, probe_at: datetime | None) -> Evidence:
    totals = dict.fromkeys((item.name for item in fields(Counts)), 0)
    invalid: set[Instance] = set()
    failing: set[Instance] = set()
    missing: set[str] = set()
    names: set[str] = set()
    for line in lines:
        place = (str(line["consumer__slug"]), str(line["instance"]))
        names.add("/".join(place))
        by_key = line["credential"] == "key"
        for name in OUTCOMES:
            n: int = line[name]
            # A 401 to an access token tells of its paths or its age, not of the key: a client error.
            target = "client_error" if not by_key and name in ("auth_invalid", "auth_missing") else name
            totals[target] += n
            if n and target in FAILURES:
                failing.add(place)
            if by_key and n and name == "auth_invalid":
                invalid.add(place)
            if by_key and n and name == "auth_missing":
                missing.add("/".join(place))
    return Evidence(
        counts=Counts(**totals),
        auth_invalid_instances=len(invalid),
        failing_instances=len(failing),
        auth_missing_instances=tuple(sorted(missing)),
        reporting_instances=tuple(sorted(names)),
        probe=probe,
        probe_at=probe_at,
    )


def _silent(rotation: Rotation, policy: Policy, reporting: set[Instance], now: datetime) -> tuple[str, ...]:
    """Instances that reported in the two windows before, and not in this one."""
    before = (
        UsageLine.objects.filter(
            key=rotation.key_id, to_at__gt=now - 3 * policy.window, to_at__lte=now - policy.window
        )
        .values_list("consumer__slug", "instance")
        .distinct()
    )
    return tuple(sorted(f"{consumer}/{name}" for consumer, name in set(before) - reporting))


def _assigned(rotation: Rotation, active: set[Instance]) -> set[Instance]:
    if rotation.stage in (Stage.MONITOR, Stage.REVOKE):
        return active
    key = rotation.key
    split = Split(rotation.weight, bytes(rotation.salt), frozenset(key.canaries), frozenset(key.pinned))
    return {(consumer, name) for consumer, name in active if gets_pending(split, consumer, name)}


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


# Quiet proof ---------------------------------------------------------------------------------------


def offenders(rotation: Rotation, policy: Policy, now: datetime) -> tuple[Offender, ...]:
    """Every reason why the outgoing version cannot be revoked yet, with the name of who causes it.

    1. It was delivered, reported as used, or verified by us, within the quiet time.
    2. An instance active in the last 7 days was never given the incoming version.
    3. Jobs opened under it are still open (providers that tie jobs to keys).
    4. Access tokens minted from it may still live.
    """
    unmet = quiet_proof(rotation, policy, now)
    found: dict[str, Offender] = {}
    # An instance is named once: open jobs say more than a late use, a late use more than what was not seen.
    for clause in (Clause.MOVED, Clause.UNUSED, Clause.JOBS):
        found |= {offender.who: offender for offender in unmet.get(clause, ())}
    if not found:
        found = {offender.who: offender for offender in unmet.get(Clause.TOKENS, ())}
    return tuple(sorted(found.values(), key=lambda offender: offender.who))


def quiet_proof(rotation: Rotation, policy: Policy, now: datetime) -> Mapping[Clause, Sequence[Offender]]:
    """Every clause of the proof with those who stand against it. Empty where there is no outgoing version."""
    outgoing = rotation.outgoing
    if outgoing is None:
        return {}
    quiet_since, active_since = now - policy.quiet_needed, now - ACTIVE_INSTANCE
    given = readers.last_given(rotation.key_id, min(quiet_since, active_since, rotation.created_at))
    before, after = given.get(outgoing.id, {}), _given_incoming(rotation, given)
    unused = [
        Offender(who, f"last seen on v{outgoing.number} {_ago(now - last)} ago", last)
        for who, last in _last_used(outgoing, before, quiet_since).items()
    ]
    behind = [
        Offender("/".join(place), f"not seen on the incoming version since {last:%Y-%m-%d %H:%M} UTC", last)
        for place, last in before.items()
        if last > active_since and place not in after
    ]
    busy = [
        Offender(who, f"has jobs open under v{outgoing.number}", last)
        for who, last in _open_jobs(rotation, outgoing, now).items()
    ]
    found = {
        Clause.UNUSED: unused,
        Clause.MOVED: behind,
        Clause.JOBS: busy,
        Clause.TOKENS: list(_derived_tokens(rotation, outgoing, before, now)),
    }
    return {clause: sorted(them, key=lambda offender: offender.who) for clause, them in found.items()}


def _given_incoming(
    rotation: Rotation, given: Mapping[uuid.UUID, Mapping[Instance, datetime]]
) -> set[Instance]:
    """The instances that were given the incoming version since the rotation began."""
    if rotation.incoming_id is None:
        return set()
    return {
        place for place, last in given.get(rotation.incoming_id, {}).items() if last > rotation.created_at
    }


def _last_used(
    outgoing: KeyVersion, given: Mapping[Instance, datetime], since: datetime
) -> dict[str, datetime]:
    used = {"/".join(place): last for place, last in given.items() if last > since}
    busy = Q()
    for outcome in OUTCOMES:
        busy |= Q(**{f"{outcome}__gt": 0})
    told = UsageLine.objects.filter(busy, version=outgoing, to_at__gt=since)
    for consumer, name, last in told.values_list("consumer__slug", "instance").annotate(last=Max("to_at")):
        who = f"{consumer}/{name}"
        used[who] = max(last, used.get(who, last))
    if outgoing.token_digest is not None:  # else it is not a key that we issued, and nobody can verify it
        for caller, last in verifiers.last_used(outgoing.id, since).items():
            used[f"verified by {caller}"] = last
    return used


def _open_jobs(rotation: Rotation, outgoing: KeyVersion, now: datetime) -> dict[str, datetime]:
    provider = rotation.key.service.provider
    if not provider.key_affine:
        return {}
    since = now - timedelta(seconds=provider.max_job_age_seconds)
    return {"/".join(place): last for place, last in jobs.open_jobs(outgoing.id, since).items()}


def _derived_tokens(
    rotation: Rotation, outgoing: KeyVersion, given: Mapping[Instance, datetime], now: datetime
) -> Iterator[Offender]:
    life = rotation.key.service.provider.derived_token_seconds
    if not life:
        return
    used = _last_used(outgoing, given, now - timedelta(seconds=life))
    if used:
        why = f"minted from v{outgoing.number} may live {life} s"
        yield Offender("access tokens", why, max(used.values()))


def _ago(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
