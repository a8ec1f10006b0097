"""The calls that are made again and again while a rotation runs: what is due of them now. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from rotation.facts import IN_FLIGHT, Call, Kind, Observations, Side, Snapshot, Stage

INSPECT_FIRST = timedelta(minutes=1)


def probes_due(r: Snapshot, seen: Observations, now: datetime) -> tuple[Side, ...]:
    """The sides whose key should be probed now: both, every ``probe_every``, while both are honoured."""
    if not seen.can_probe or r.stage not in (Stage.SHIFT, Stage.MONITOR):
        return ()
    due = []
    for side, evidence in ((Side.INCOMING, seen.incoming), (Side.OUTGOING, seen.outgoing)):
        if side is Side.OUTGOING and (not r.has_outgoing or r.no_fallback):
            continue
        operation = seen.operations.get((Kind.PROBE, side))
        if operation is not None and operation.state in IN_FLIGHT:
            continue
        if evidence.probe_at is None or now - evidence.probe_at >= r.policy.probe_every:
            due.append(side)
    return tuple(due)


def routine_due(r: Snapshot, seen: Observations, now: datetime) -> tuple[Call, ...]:
    """Probes; and, where the provider tells when it last saw a key, that question about the outgoing one.

    It is asked before each probe of the outgoing key, for our own call is all that it would tell of after.
    A provider that does not answer delays that probe by a minute at most.
    """
    sides = probes_due(r, seen, now)
    probes = tuple(Call(Kind.PROBE, side) for side in sides)
    if r.stage is not Stage.MONITOR or not r.outgoing_active or not seen.can_inspect:
        return probes
    if seen.can_probe and Side.OUTGOING not in sides:
        return probes
    others = tuple(call for call in probes if call.side is not Side.OUTGOING)
    asked = seen.operations.get((Kind.INSPECT, Side.OUTGOING))
    if asked is not None and asked.state in IN_FLIGHT:
        waited = asked.created_at is None or now - asked.created_at >= INSPECT_FIRST
        return probes if waited else others
    told = asked.finished_at if asked is not None else None
    before_probe = seen.outgoing.probe_at is None or (told is not None and told > seen.outgoing.probe_at)
    if told is not None and before_probe and now - told < r.policy.probe_every:
        return probes
    return (*others, Call(Kind.INSPECT, Side.OUTGOING))
