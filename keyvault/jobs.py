"""Jobs that a provider ties to the key that opened them, as consumers reported them. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from keyvault.domain import Instance
from keyvault.models import OpenJobs
from keyvault.prepared import prepared

Row = tuple[uuid.UUID, uuid.UUID, uuid.UUID, str, int, datetime]


@prepared
def _open(version_id: uuid.UUID, since: datetime) -> QuerySet[OpenJobs, Any]:
    rows = OpenJobs.objects.filter(version_id=version_id, open__gt=0, last_to_at__gt=since)
    return rows.values_list("consumer__slug", "instance", "last_to_at")


def open_jobs(version_id: uuid.UUID, since: datetime) -> dict[Instance, datetime]:
    """Instances with more jobs opened than closed under a version, and when they last said so.

    One that has said nothing since ``since`` is left out: its jobs are too old to matter.
    """
    return {(consumer, name): last for consumer, name, last in _open(version_id, since)}


def has_open_jobs(version_id: uuid.UUID, consumer_id: uuid.UUID, instance: str, since: datetime) -> bool:
    """The same question for one instance (one row, found by its index)."""
    return OpenJobs.objects.filter(
        version_id=version_id, consumer_id=consumer_id, instance=instance, open__gt=0, last_to_at__gt=since
    ).exists()


@prepared
def _not_told_since(
    version_id: uuid.UUID, consumer_id: uuid.UUID, instance: str, moment: datetime
) -> QuerySet[OpenJobs, uuid.UUID]:
    rows = OpenJobs.objects.filter(
        version_id=version_id, consumer_id=consumer_id, instance=instance, open__gt=0, last_to_at__lt=moment
    )
    return rows.values_list("id", flat=True)


def have_run(version_id: uuid.UUID, consumer_id: uuid.UUID, instance: str, moment: datetime) -> bool:
    """Whether this instance had jobs open when it last told of them, before this moment."""
    return bool(_not_told_since(version_id, consumer_id, instance, moment))


def open_jobs_of(version_ids: Collection[uuid.UUID]) -> list[Row]:
    """Per instance that told of jobs under these versions: id, version, consumer, instance, how many are
    open (none, if that is below 1), the end of its last report."""
    rows = OpenJobs.objects.filter(version_id__in=version_ids)
    return list(rows.values_list("id", "version_id", "consumer_id", "instance", "open", "last_to_at"))
