"""Who had keys that we issued verified, with which result, and when last. Reads only.

What is not folded yet is read first, then what is: a row that is folded meanwhile is seen twice rather than
not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max, OuterRef, Subquery, Sum

from keyvault.models import KeyVersion, Verification, VerificationBucket

MINUTE = timedelta(minutes=1)
FORWARD_AUTH = "forward-auth"
# Somebody holds the version and works with it. The other results refuse the key already, so that whoever
# presents it loses nothing when it is revoked.
IN_USE = ("valid", "rate_limited")


@dataclass(frozen=True)
class Verifier:
    """A caller that presented a version; ``count`` times with this result."""

    caller: str
    version_id: uuid.UUID
    code: str
    count: int
    last: datetime


def verified(version_ids: Collection[uuid.UUID], since: datetime) -> list[Verifier]:
    """Every caller, version and result after ``since``, counted from the minute in which that lies."""
    if not version_ids:
        return []
    fresh = Verification.objects.filter(version_id__in=version_ids, at__gt=since).order_by()
    rows = [
        (slug or FORWARD_AUTH, version_id, code, n, last)
        for slug, version_id, code, n, last in fresh.values_list(
            "consumer__slug", "version_id", "code"
        ).annotate(Sum("count"), Max("at"))
    ]
    folded = VerificationBucket.objects.filter(
        version_id__in=version_ids, minute__gt=since - MINUTE, last_at__gt=since
    ).order_by()
    rows += folded.values_list("caller", "version_id", "code").annotate(Sum("count"), Max("last_at"))
    found: dict[tuple[str, uuid.UUID, str], tuple[int, datetime]] = {}
    for caller, version_id, code, n, last in rows:
        before, seen = found.get((caller, version_id, code), (0, last))
        found[(caller, version_id, code)] = (before + n, max(last, seen))
    return [Verifier(*one, count=n, last=last) for one, (n, last) in found.items()]


def last_used(version_id: uuid.UUID, since: datetime) -> dict[str, datetime]:
    """The callers by which a version was used after ``since``, and when last."""
    used: dict[str, datetime] = {}
    for one in verified([version_id], since):
        if one.code in IN_USE:
            used[one.caller] = max(one.last, used.get(one.caller, one.last))
    return used


def last_of_versions(version_ids: Collection[uuid.UUID], since: datetime) -> dict[uuid.UUID, datetime]:
    """When each of these versions was last used by verification, where that was after ``since``."""
    fresh = Verification.objects.filter(version_id__in=version_ids, code__in=IN_USE, at__gt=since).order_by()
    found: dict[uuid.UUID, datetime] = dict(fresh.values_list("version_id").annotate(last=Max("at")))
    # The newest row of each version is the end of a stretch of the index; an aggregate would read all of it.
    newest = VerificationBucket.objects.filter(
        version_id=OuterRef("pk"), code__in=IN_USE, minute__gt=since - MINUTE, last_at__gt=since
    ).order_by("-minute", "-last_at")
    versions = KeyVersion.objects.filter(id__in=version_ids).order_by()
    for version_id, last in versions.annotate(last=Subquery(newest.values("last_at")[:1])).values_list(
        "id", "last"
    ):
        if last is not None:
            found[version_id] = max(last, found.get(version_id, last))
    return found
