"""Rows -> what is known of one version: usage reports, verifications by us, probes. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from django.db.models import QuerySet, Sum

from keyvault import verifiers
from keyvault.domain import Instance
from keyvault.models import UsageLine
from keyvault.models.activity import OUTCOMES
from keyvault.prepared import prepared
from rotation.facts import FAILURES, Counts, Evidence, OperationState, OperationView
from rotation.judge import weigh

NOTHING = dict.fromkeys((item.name for item in fields(Counts)), 0)
# What Keyturn says of a key that it issued, in the words that consumers use of other providers.
_VERIFIED = {
    "valid": "ok",
    "rate_limited": "rate_limited",
    "revoked": "auth_invalid",
    "expired": "auth_invalid",
    "disabled": "auth_invalid",
}
_CATEGORICAL = ("auth_invalid", "auth_missing")


@dataclass(frozen=True)
class Line:
    """Requests of one instance with one version. ``ours``: we counted them, nobody reported them."""

    place: Instance
    counts: Mapping[str, int]
    credential: str = "key"
    ours: bool = False


@dataclass
class _Sums:
    by_instance: dict[Instance, dict[str, int]] = field(default_factory=dict)
    named: dict[str, set[Instance]] = field(default_factory=dict)  # outcome -> where it was seen
    refused_by_us: int = 0


def counted(line: Line) -> Mapping[str, int]:
    """A 401 to an access token tells of its paths or its age, not of the key: a client error."""
    if line.credential == "key":
        return line.counts
    scoped = sum(line.counts[name] for name in _CATEGORICAL)
    moved = {"client_error": line.counts["client_error"] + scoped}
    return {**line.counts, **dict.fromkeys(_CATEGORICAL, 0), **moved}


def fold(
    lines: Iterable[Line], *, peers: int, min_samples: int, probe: OperationView | None = None
) -> Evidence:
    """What lines of one version say together; ``peers`` instances should be heard of."""
    sums = _Sums()
    for line in lines:
        into = sums.by_instance.setdefault(line.place, dict(NOTHING))
        for name, n in counted(line).items():
            into[name] += n
            if n:
                sums.named.setdefault(name, set()).add(line.place)
                sums.refused_by_us += n if line.ours and name == "auth_invalid" else 0
    by_instance = {place: Counts(**counts) for place, counts in sums.by_instance.items()}
    done = probe is not None and probe.state is OperationState.DONE
    return Evidence(
        counts=sum(by_instance.values(), Counts()),
        weighed=weigh(by_instance, peers=peers, min_samples=min_samples),
        auth_invalid_instances=len(sums.named.get("auth_invalid", ())),
        refused_by_us=sums.refused_by_us,
        failing_instances=len(set().union(*(sums.named.get(name, ()) for name in FAILURES))),
        auth_missing_instances=_names(sums.named.get("auth_missing", ())),
        reporting_instances=_names(by_instance),
        probe=probe.outcome if probe and done else "",
        probe_at=probe.finished_at if probe and done else None,
    )


def _names(places: Iterable[Instance]) -> tuple[str, ...]:
    return tuple(sorted("/".join(place) for place in places))


@prepared
def _summed(version_ids: Collection[uuid.UUID], since: datetime) -> QuerySet[UsageLine, Any]:
    rows = UsageLine.objects.filter(version_id__in=version_ids, to_at__gt=since).order_by()
    by_place = rows.values("version_id", "consumer__slug", "instance", "credential")
    return by_place.annotate(**{name: Sum(name) for name in OUTCOMES})


def reported(version_ids: Iterable[uuid.UUID], since: datetime) -> dict[uuid.UUID, list[Line]]:
    """Per version what was reported of the time after ``since``, one line per instance and credential."""
    found: dict[uuid.UUID, list[Line]] = {}
    for row in _summed(list(version_ids), since):
        found.setdefault(row["version_id"], []).append(line_of(row))
    return found


def line_of(row: Mapping[str, Any]) -> Line:
    return _line((str(row["consumer__slug"]), str(row["instance"])), row)


def _line(place: Instance, row: Mapping[str, Any]) -> Line:
    return Line(place, {name: int(row[name]) for name in OUTCOMES}, str(row["credential"]))


def verified(version_ids: Iterable[uuid.UUID], since: datetime) -> dict[uuid.UUID, list[Line]]:
    """The same for keys that we issued: who had them verified, with which result."""
    found: dict[uuid.UUID, list[Line]] = {}
    for one in verifiers.verified(list(version_ids), since):
        counts = {**dict.fromkeys(OUTCOMES, 0), _VERIFIED[one.code]: one.count}
        line = Line((one.caller, "verification"), counts, ours=True)
        found.setdefault(one.version_id, []).append(line)
    return found


def before(version_id: uuid.UUID, since: datetime) -> Counts:
    """What was reported of a version after ``since``, in one sum. Reads every line of that time."""
    rows = (
        UsageLine.objects.filter(version_id=version_id, to_at__gt=since)
        .order_by()
        .values("credential")
        .annotate(**{name: Sum(name) for name in OUTCOMES})
    )
    return sum((Counts(**counted(_line(("", ""), row))) for row in rows), Counts())
