"""Who was given which version, how often and when last. Reads only.

Deliveries up to the fold mark are read from the folded rows, those beyond it one by one. The mark is read
first, then the tail, then what is folded: a delivery that is folded meanwhile is seen twice rather than not
at all. Times are right in any case; a number can be too high for an instant.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import TruncMinute

from keyvault.domain import Instance
from keyvault.models import Delivery, FoldMark, Key, LastDelivery, UsageBucket
from keyvault.prepared import prepared

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Reader:
    """An instance that was given a version; ``version`` is its number."""

    consumer: str
    instance: str
    version_id: uuid.UUID
    version: int
    deliveries: int
    last: datetime


_PLACE = ("version_id", "consumer__slug", "instance")
_PLACE_BY_KEY = ("key_id", "consumer__slug", "instance", "version_id", "version__number")


@prepared
def _marks() -> QuerySet[FoldMark, int]:
    return FoldMark.objects.values_list("delivery_id", flat=True).order_by("pk")[:1]


def _mark() -> int:
    """The last delivery that is folded. It is asked for apart from the tail and not as part of the query:
    only so PostgreSQL knows how short the tail is."""
    return _marks.first() or 0


def _after(mark: int, key_ids: Collection[uuid.UUID]) -> QuerySet[Delivery]:
    return Delivery.objects.filter(key_id__in=key_ids, id__gt=mark).order_by()


def _tail(key_ids: Collection[uuid.UUID]) -> QuerySet[Delivery]:
    """Deliveries of these keys that are not folded yet."""
    return _after(_mark(), key_ids)


@prepared
def _last_in_tail(mark: int, key_id: uuid.UUID, since: datetime) -> QuerySet[Delivery, Any]:
    return _after(mark, [key_id]).filter(at__gt=since).values_list(*_PLACE).annotate(last=Max("at"))


@prepared
def _last_folded(key_id: uuid.UUID, since: datetime) -> QuerySet[LastDelivery, Any]:
    folded = LastDelivery.objects.filter(key_id=key_id, last_at__gt=since)
    return folded.values_list(*_PLACE, "last_at")


@prepared
def _given_in_tail(mark: int, key_ids: Collection[uuid.UUID], since: datetime) -> QuerySet[Delivery, Any]:
    tail = _after(mark, key_ids).filter(at__gt=since)
    return tail.values_list(*_PLACE_BY_KEY).annotate(Count("id"), Max("at"))


@prepared
def _given_folded(
    key_ids: Collection[uuid.UUID], minute: datetime, since: datetime
) -> QuerySet[UsageBucket, Any]:
    folded = UsageBucket.objects.filter(key_id__in=key_ids, minute__gt=minute, last_delivery_at__gt=since)
    places = folded.order_by().values_list(*_PLACE_BY_KEY)
    return places.annotate(Sum("deliveries"), Max("last_delivery_at"))


@prepared
def _versions_in_tail(
    mark: int, key_id: uuid.UUID, version_ids: Collection[uuid.UUID], consumer_id: uuid.UUID, instance: str
) -> QuerySet[Delivery, uuid.UUID]:
    here = _after(mark, [key_id]).filter(
        version_id__in=version_ids, consumer_id=consumer_id, instance=instance
    )
    return here.values_list("version_id", flat=True).distinct()


@prepared
def _versions_folded(
    version_ids: Collection[uuid.UUID], consumer_id: uuid.UUID, instance: str
) -> QuerySet[LastDelivery, uuid.UUID]:
    here = LastDelivery.objects.filter(version_id__in=version_ids, consumer_id=consumer_id, instance=instance)
    return here.values_list("version_id", flat=True)


def last_given(key_id: uuid.UUID, since: datetime) -> dict[uuid.UUID, dict[Instance, datetime]]:
    """Per version of this key the instances that were given it after ``since``, and when last."""
    rows = [*_last_in_tail(_mark(), key_id, since), *_last_folded(key_id, since)]
    found: dict[uuid.UUID, dict[Instance, datetime]] = {}
    for version_id, consumer, instance, last in rows:
        instances = found.setdefault(version_id, {})
        instances[(consumer, instance)] = max(last, instances.get((consumer, instance), last))
    return found


def instances_of_versions(
    key_ids: Collection[uuid.UUID], version_ids: Collection[uuid.UUID], since: datetime
) -> dict[uuid.UUID, set[str]]:
    """Per version of these keys the instances (``consumer/instance``) that were given it after ``since``."""
    tail = _tail(key_ids).filter(version_id__in=version_ids, at__gt=since).values_list(*_PLACE).distinct()
    rows = list(tail)
    folded = LastDelivery.objects.filter(key_id__in=key_ids, version_id__in=version_ids, last_at__gt=since)
    rows += folded.values_list(*_PLACE)
    found: dict[uuid.UUID, set[str]] = {}
    for version_id, consumer, instance in rows:
        found.setdefault(version_id, set()).add(f"{consumer}/{instance}")
    return found


def given(key_id: uuid.UUID, since: datetime) -> list[Reader]:
    """The instances that were given this key after ``since``, one for each version.

    Deliveries are counted from the start of the minute in which ``since`` lies.
    """
    return given_by_key([key_id], since).get(key_id, [])


def given_by_key(key_ids: Collection[uuid.UUID], since: datetime) -> dict[uuid.UUID, list[Reader]]:
    """``given`` for several keys at once."""
    tail = _given_in_tail(_mark(), key_ids, since)
    rows = [*tail, *_given_folded(key_ids, since - MINUTE, since)]
    found: dict[tuple[uuid.UUID, str, str, uuid.UUID, int], tuple[int, datetime]] = {}
    for key_id, consumer, instance, version_id, number, n, last in rows:
        one = (key_id, consumer, instance, version_id, number)
        before, seen = found.get(one, (0, last))
        found[one] = (before + n, max(last, seen))
    by_key: dict[uuid.UUID, list[Reader]] = {}
    for (key_id, consumer, instance, version_id, number), (n, last) in found.items():
        reader = Reader(consumer, instance, version_id, number, deliveries=n, last=last)
        by_key.setdefault(key_id, []).append(reader)
    return by_key


def per_minute(
    key_id: uuid.UUID, start: datetime, end: datetime
) -> Iterator[tuple[uuid.UUID, datetime, int]]:
    """Version, minute and number of deliveries, for the minutes that begin from ``start`` to ``end``.

    A version and minute can come twice; the numbers add up.
    """
    tail = _tail([key_id]).filter(at__gte=start, at__lt=end + MINUTE)
    yield from (
        tail.annotate(minute=TruncMinute("at")).values_list("version_id", "minute").annotate(Count("id"))
    )
    folded = UsageBucket.objects.filter(key_id=key_id, minute__gte=start, minute__lte=end).order_by()
    yield from folded.values_list("version_id", "minute").annotate(Sum("deliveries"))


def last_of_keys(key_ids: Collection[uuid.UUID], since: datetime) -> dict[uuid.UUID, datetime]:
    """When each of these keys was last delivered, where that was after ``since``."""
    tail = _tail(key_ids).filter(at__gt=since).values_list("key_id").annotate(last=Max("at"))
    found: dict[uuid.UUID, datetime] = dict(tail)
    # The newest row of each key is the end of a stretch of the index; an aggregate would read all of it.
    newest = LastDelivery.objects.filter(key_id=OuterRef("pk"), last_at__gt=since).order_by("-last_at")
    keys = Key.objects.filter(id__in=key_ids).order_by().annotate(last=Subquery(newest.values("last_at")[:1]))
    for key_id, last in keys.values_list("id", "last"):
        if last is not None:
            found[key_id] = max(last, found.get(key_id, last))
    return found


def versions_given(
    key_id: uuid.UUID, version_ids: Collection[uuid.UUID], consumer_id: uuid.UUID, instance: str
) -> set[uuid.UUID]:
    """Which of these versions of a key this instance was ever given."""
    wanted = set(version_ids)
    found = set(_versions_folded(wanted, consumer_id, instance))
    if found == wanted:
        return found
    found |= set(_versions_in_tail(_mark(), key_id, wanted, consumer_id, instance))
    # Again, for what was folded between the two questions.
    return found if found == wanted else found | set(_versions_folded(wanted, consumer_id, instance))
