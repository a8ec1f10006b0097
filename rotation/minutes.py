"""Reported requests by the minute, over times of any length. Reads only.

What was received lately stands report by report; older ones are summed up (``ReportBucket``). The lines are
read first: a report that is summed up meanwhile is seen twice rather than not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from django.db.models import QuerySet, Sum
from django.db.models.functions import TruncMinute

from keyvault.models import ReportBucket, UsageLine
from keyvault.models.activity import OUTCOMES
from rotation.counting import Line, counted
from rotation.facts import FAILURES, Counts
from rotation.models import Rotation

_SUMS = {name: Sum(name) for name in OUTCOMES}
_BY = ("minute", "version_id", "credential")


def summed_up(version_ids: Collection[uuid.UUID], start: datetime, end: datetime) -> QuerySet[ReportBucket]:
    """The minutes that are summed up already, of reports that ended from ``start`` to ``end``."""
    whole = start.replace(second=0, microsecond=0)
    return ReportBucket.objects.filter(
        version_id__in=version_ids, minute__gte=whole, minute__lte=end
    ).order_by()


def by_minute(
    version_ids: Collection[uuid.UUID], start: datetime, end: datetime
) -> Iterator[tuple[datetime, uuid.UUID, Mapping[str, int]]]:
    """Minute, version and outcomes as the verdict takes them. A pair can come several times; they add up."""
    lines = UsageLine.objects.filter(version_id__in=version_ids, to_at__gte=start, to_at__lte=end).order_by()
    rows: list[Mapping[str, Any]] = [
        *lines.annotate(minute=TruncMinute("to_at")).values(*_BY).annotate(**_SUMS),
        *summed_up(version_ids, start, end).values(*_BY).annotate(**_SUMS),
    ]
    for row in rows:
        line = Line(("", ""), {name: int(row[name]) for name in OUTCOMES}, str(row["credential"]))
        yield row["minute"], row["version_id"], counted(line)


def totals(version_ids: Collection[uuid.UUID], start: datetime, end: datetime) -> dict[uuid.UUID, Counts]:
    """The outcomes of each version in all, from ``start`` to ``end``."""
    found: dict[uuid.UUID, Counts] = {}
    for _, version_id, counts in by_minute(version_ids, start, end):
        found[version_id] = found.get(version_id, Counts()) + Counts(**counts)
    return found


def versions_of(rotation: Rotation) -> list[uuid.UUID]:
    """Both versions, as far as they are there."""
    return [pk for pk in (rotation.outgoing_id, rotation.incoming_id) if pk is not None]


def minutes_document(rotation: Rotation, until: datetime) -> list[dict[str, Any]]:
    """What an evidence file tells of the reported requests of both versions, minute by minute."""
    sides = {rotation.outgoing_id: "outgoing", rotation.incoming_id: "incoming"}
    found: dict[datetime, dict[str, Counts]] = {}
    for minute, version_id, counts in by_minute(versions_of(rotation), rotation.created_at, until):
        by_side, side = found.setdefault(minute, {}), sides[version_id]
        by_side[side] = by_side.get(side, Counts()) + Counts(**counts)
    return [
        {
            "minute": minute.isoformat().replace("+00:00", "Z"),
            **{side: _rate(counts) for side, counts in sorted(by_side.items())},
        }
        for minute, by_side in sorted(found.items())
    ]


def _rate(counts: Counts) -> dict[str, Any]:
    outcomes = {name: getattr(counts, name) for name in OUTCOMES if getattr(counts, name)}
    return {
        "requests": counts.total,
        "errors": sum(outcomes.get(name, 0) for name in FAILURES),
        "outcomes": outcomes,
    }
