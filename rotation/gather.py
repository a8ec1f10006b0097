"""What rows say about some rotations, asked for all of them at once. Reads only.

One rotation or five hundred cost the same number of queries, but for policies whose windows differ.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db.models import Count, OuterRef, QuerySet, Subquery

from keyvault import readers
from keyvault.domain import Instance, State
from keyvault.models import KeyVersion, UsageLine
from keyvault.prepared import prepared
from rotation import counting
from rotation.counting import Line
from rotation.facts import ROUTINE, Kind, OperationState, OperationView, Side
from rotation.models import Approval, Operation, Rotation
from rotation.policy import Policy, kept

Views = dict[tuple[Kind, Side], OperationView]
By = TypeVar("By", bound=Hashable)

ROUTINE_CALLS = ((Kind.PROBE, Side.INCOMING), (Kind.PROBE, Side.OUTGOING), (Kind.INSPECT, Side.OUTGOING))


@dataclass(frozen=True)
class Gathered:
    """By the rotation, key or version that each is about; for evidence, by the span of time as well."""

    operations: Mapping[uuid.UUID, Views] = field(default_factory=dict)
    approved: Collection[uuid.UUID] = ()  # rotations that anybody ever approved something of
    live: Mapping[uuid.UUID, int] = field(default_factory=dict)  # versions of a key that count for its quota
    reported: Mapping[timedelta, Mapping[uuid.UUID, list[Line]]] = field(default_factory=dict)
    verified: Mapping[timedelta, Mapping[uuid.UUID, list[Line]]] = field(default_factory=dict)
    before: Mapping[timedelta, Mapping[uuid.UUID, set[Instance]]] = field(default_factory=dict)
    given: Mapping[timedelta, Mapping[uuid.UUID, list[readers.Reader]]] = field(default_factory=dict)


def activity_span(policy: Policy) -> timedelta:
    """An instance that asked within this time is there."""
    return max(policy.window, 3 * policy.refresh)


def gather(rotations: Sequence[Rotation], now: datetime) -> Gathered:
    """Everything that ``observe`` needs to know of these rotations."""
    policies = {rotation.id: kept(rotation.policy) for rotation in rotations}

    def by(span: Callable[[Policy], timedelta]) -> dict[timedelta, list[Rotation]]:
        return _grouped(rotations, lambda rotation: span(policies[rotation.id]))

    windows, spans = by(lambda policy: policy.window), by(activity_span)
    return Gathered(
        operations=_operations([rotation.id for rotation in rotations]),
        approved=set(_approved([rotation.id for rotation in rotations])),
        live=_live(rotations),
        reported={
            window: counting.reported(_versions(them), now - window) for window, them in windows.items()
        },
        verified={
            window: counting.verified(_versions(filter(_is_ours, them)), now - window)
            for window, them in windows.items()
        },
        before={window: _before(_versions(them), window, now) for window, them in windows.items()},
        given={
            span: readers.given_by_key([rotation.key_id for rotation in them], now - span)
            for span, them in spans.items()
        },
    )


def _grouped(rotations: Iterable[Rotation], by: Callable[[Rotation], By]) -> dict[By, list[Rotation]]:
    groups: dict[By, list[Rotation]] = {}
    for rotation in rotations:
        groups.setdefault(by(rotation), []).append(rotation)
    return groups


def _is_ours(rotation: Rotation) -> bool:
    return rotation.key.service.provider.driver == "generated"


def _versions(rotations: Iterable[Rotation]) -> list[uuid.UUID]:
    pairs = ((rotation.incoming_id, rotation.outgoing_id) for rotation in rotations)
    return [version_id for pair in pairs for version_id in pair if version_id is not None]


@prepared
def _unique_operations(ids: Collection[uuid.UUID]) -> QuerySet[Operation]:
    rows = Operation.objects.filter(rotation_id__in=ids, superseded=False)
    return rows.exclude(kind__in=ROUTINE).order_by("created_at")


def _operations(ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Views]:
    """The latest operation of each kind and side that no person superseded."""
    found: dict[uuid.UUID, Views] = {}
    for row in [*_unique_operations(ids), *_routine(ids)]:
        found.setdefault(row.rotation_id, {})[(Kind(row.kind), Side(row.side))] = _view(row)
    return found


@prepared
def _last_routine(ids: Collection[uuid.UUID]) -> QuerySet[Rotation, Any]:
    last = {
        f"last_{kind}_{side}": Subquery(
            Operation.objects.filter(rotation=OuterRef("pk"), kind=kind, side=side, superseded=False)
            .order_by("-created_at")
            .values("pk")[:1]
        )
        for kind, side in ROUTINE_CALLS
    }
    return Rotation.objects.filter(id__in=ids).order_by().annotate(**last).values_list(*last)


@prepared
def _by_id(ids: Collection[uuid.UUID]) -> QuerySet[Operation]:
    return Operation.objects.filter(id__in=ids).order_by()


def _routine(ids: Collection[uuid.UUID]) -> Iterable[Operation]:
    """These are made again and again: the last of each is found by the index, the others are not read."""
    return _by_id([pk for row in _last_routine(ids) for pk in row if pk is not None])


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


@prepared
def _approved(ids: Collection[uuid.UUID]) -> QuerySet[Approval, uuid.UUID]:
    return Approval.objects.filter(rotation_id__in=ids).values_list("rotation_id", flat=True)


@prepared
def _living(key_ids: Collection[uuid.UUID]) -> QuerySet[KeyVersion, Any]:
    rows = KeyVersion.objects.filter(key_id__in=key_ids, state__in=[State.ACTIVE, State.DISABLED])
    return rows.order_by().values_list("key_id").annotate(Count("id"))


def _live(rotations: Iterable[Rotation]) -> dict[uuid.UUID, int]:
    limited = [one.key_id for one in rotations if one.key.service.provider.max_keys is not None]
    return dict(_living(limited))


@prepared
def _reporters(
    version_ids: Collection[uuid.UUID], start: datetime, end: datetime
) -> QuerySet[UsageLine, Any]:
    rows = UsageLine.objects.filter(version_id__in=version_ids, to_at__gt=start, to_at__lte=end)
    return rows.order_by().values_list("version_id", "consumer__slug", "instance").distinct()


def _before(
    version_ids: Collection[uuid.UUID], window: timedelta, now: datetime
) -> dict[uuid.UUID, set[Instance]]:
    """Who reported in the two windows before the present one."""
    found: dict[uuid.UUID, set[Instance]] = {}
    for version_id, consumer, name in _reporters(version_ids, now - 3 * window, now - window):
        found.setdefault(version_id, set()).add((consumer, name))
    return found
