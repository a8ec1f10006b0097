"""Jobs that a provider ties to the key that opened them, as consumers reported them. Reads only."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db.models import F, Max, Sum

from keyvault.models import UsageLine

Instance = tuple[str, str]  # consumer slug, instance name


def open_jobs(version_id: uuid.UUID, since: datetime) -> dict[Instance, datetime]:
    """Instances with more jobs opened than closed under a version, and when they last said so.

    One that has said nothing since ``since`` is left out: its jobs are too old to matter.
    """
    rows = (
        UsageLine.objects.filter(version_id=version_id)
        .values_list("consumer__slug", "instance")
        .annotate(left=Sum(F("jobs_opened") - F("jobs_closed")), last=Max("to_at"))
        .filter(left__gt=0, last__gt=since)
    )
    return {(consumer, name): last for consumer, name, left, last in rows}


def has_open_jobs(version_id: uuid.UUID, consumer_id: uuid.UUID, instance: str, since: datetime) -> bool:
    """The same question for one instance (one query, on an index)."""
    told = UsageLine.objects.filter(
        version_id=version_id, consumer_id=consumer_id, instance=instance
    ).aggregate(left=Sum(F("jobs_opened") - F("jobs_closed")), last=Max("to_at"))
    return told["last"] is not None and told["left"] > 0 and told["last"] > since
