"""The quiet proof: who or what still stands between the outgoing version and its revoke. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from keyvault import jobs, readers, verifiers
from keyvault.domain import Instance
from keyvault.models import KeyVersion, LastUse
from keyvault.prepared import prepared
from rotation import specs
from rotation.facts import Clause, Offender
from rotation.models import Rotation
from rotation.policy import Policy, format_duration

ACTIVE_INSTANCE = timedelta(days=7)
PROVIDER = "the provider"
TOKENS = "access tokens"


def offenders(rotation: Rotation, policy: Policy, now: datetime) -> tuple[Offender, ...]:
    """Every reason why the outgoing version cannot be revoked yet, with the name of who causes it."""
    unmet = quiet_proof(rotation, policy, now)
    found: dict[str, Offender] = {}
    # An instance is named once: open jobs say more than a late use, a late use more than what was not seen.
    for clause in (Clause.PROVIDER, Clause.TOKENS, Clause.MOVED, Clause.UNUSED, Clause.JOBS):
        found |= {offender.who: offender for offender in unmet.get(clause, ())}
    return tuple(sorted(found.values(), key=lambda offender: offender.who))


def quiet_proof(rotation: Rotation, policy: Policy, now: datetime) -> Mapping[Clause, Sequence[Offender]]:
    """Every clause of the proof with those who stand against it. Empty where there is no outgoing version.

    1. It was not delivered, reported as used, or verified by us, within the quiet time.
    2. Every instance active in the last 7 days was given the incoming version since it last had this one.
    3. No jobs opened under it are open (providers that tie jobs to keys).
    4. Access tokens minted from it have run out.
    5. The provider itself did not see it used within the quiet time, and was asked lately (where it tells).
    """
    outgoing = rotation.outgoing
    if outgoing is None:
        return {}
    quiet_since, active_since = now - policy.quiet_needed, now - ACTIVE_INSTANCE
    given = readers.last_given(rotation.key_id, min(quiet_since, active_since, rotation.created_at))
    had, moved = given.get(outgoing.id, {}), _given_incoming(rotation, given)
    unused = [
        Offender(who, f"last seen on v{outgoing.number} {_ago(now - last)} ago", last)
        for who, last in _last_used(outgoing, had, quiet_since).items()
    ]
    behind = [
        Offender("/".join(place), f"not seen on the incoming version since {last:%Y-%m-%d %H:%M} UTC", last)
        for place, last in had.items()
        if last > active_since and not (place in moved and moved[place] >= last)
    ]
    busy = [
        Offender("/".join(place), f"has jobs open under v{outgoing.number}", last)
        for place, last in held_by_jobs(rotation, outgoing, now).items()
    ]
    found = {
        Clause.UNUSED: unused,
        Clause.MOVED: behind,
        Clause.JOBS: busy,
        Clause.TOKENS: list(_derived_tokens(rotation, outgoing, had, quiet_since, now)),
        Clause.PROVIDER: list(_provider_says(rotation, outgoing, policy, now)),
    }
    return {clause: sorted(them, key=lambda offender: offender.who) for clause, them in found.items()}


def proof_document(rotation: Rotation, policy: Policy, now: datetime) -> dict[str, Any]:
    """What was known of the outgoing version when its revoke began; kept, for later it cannot be told."""
    clauses = quiet_proof(rotation, policy, now)
    return {
        "at": now.isoformat(),
        "quiet": not any(clauses.values()),
        "forced": rotation.force_asked_at is not None,
        "quiet_for": format_duration(policy.quiet_needed),
        "monitored_seconds": int(rotation.monitored_seconds),
        "clauses": [
            {
                "clause": str(clause),
                "met": not offenders,
                "offenders": [
                    {
                        "who": offender.who,
                        "why": offender.why,
                        "last_seen": offender.last_seen.isoformat() if offender.last_seen else None,
                    }
                    for offender in offenders
                ],
            }
            for clause, offenders in clauses.items()
        ],
    }


def _given_incoming(
    rotation: Rotation, given: Mapping[uuid.UUID, Mapping[Instance, datetime]]
) -> dict[Instance, datetime]:
    """The instances that were given the incoming version since the rotation began, and when last."""
    if rotation.incoming_id is None:
        return {}
    incoming = given.get(rotation.incoming_id, {})
    return {place: last for place, last in incoming.items() if last > rotation.created_at}


@prepared
def _told(version_id: uuid.UUID, since: datetime) -> QuerySet[LastUse, Any]:
    told = LastUse.objects.filter(version_id=version_id, last_at__gt=since)
    return told.values_list("consumer__slug", "instance", "last_at")


def _last_used(
    outgoing: KeyVersion, given: Mapping[Instance, datetime], since: datetime
) -> dict[str, datetime]:
    used = {"/".join(place): last for place, last in given.items() if last > since}
    for consumer, name, last in _told(outgoing.id, since):
        who = f"{consumer}/{name}"
        used[who] = max(last, used.get(who, last))
    if outgoing.token_digest is not None:  # else it is not a key that we issued, and nobody can verify it
        for caller, last in verifiers.last_used(outgoing.id, since).items():
            used[f"verified by {caller}"] = last
    return used


def held_by_jobs(rotation: Rotation, outgoing: KeyVersion | None, now: datetime) -> dict[Instance, datetime]:
    """The instances that keep the outgoing version for jobs that no other key can see."""
    provider = rotation.key.service.provider
    if not provider.key_affine or outgoing is None:
        return {}
    return jobs.open_jobs(outgoing.id, now - timedelta(seconds=provider.max_job_age_seconds))


def _derived_tokens(
    rotation: Rotation,
    outgoing: KeyVersion,
    given: Mapping[Instance, datetime],
    quiet_since: datetime,
    now: datetime,
) -> Iterator[Offender]:
    """A use after ``quiet_since`` is named as such already; tokens can live on from one before it."""
    life = rotation.key.service.provider.derived_token_seconds
    born = now - timedelta(seconds=life)
    if not life or born >= quiet_since:
        return
    last = max(_last_used(outgoing, given, born).values(), default=None)
    if last is not None:
        yield Offender(TOKENS, f"minted from v{outgoing.number} may live {life} s", last)


def _provider_says(
    rotation: Rotation, outgoing: KeyVersion, policy: Policy, now: datetime
) -> Iterator[Offender]:
    if not specs.can_inspect(rotation.key.service.provider, outgoing):
        return
    asked, used = rotation.inspected_at, rotation.provider_used_at
    if asked is None or now - asked > 2 * policy.probe_every + policy.check_every:
        yield Offender(PROVIDER, f"has not said lately when v{outgoing.number} was last used", asked)
    elif used is not None and used > now - policy.quiet_needed:
        yield Offender(PROVIDER, f"saw v{outgoing.number} used {_ago(now - used)} ago", used)


def _ago(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
