"""Who is still on the outgoing version: whose instance it is, whom to ask, and when it fetched last."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyvault.domain import Role
from keyvault.models import Consumer, Membership, User
from rotation.facts import Offender


@dataclass(frozen=True)
class Straggler:
    """One reason why the outgoing version is not quiet; ``consumer`` is None where it is no instance's."""

    offender: Offender
    consumer: Consumer | None
    owners: Sequence[User] = ()


@dataclass(frozen=True)
class Stragglers:
    rows: Sequence[Straggler]
    consumers: Sequence[Consumer]  # each once, to be reminded


def stragglers(offenders: Sequence[Offender]) -> Stragglers:
    """Two queries, or none where nobody is in the way. Leads are the owners, else operators."""
    names = {offender.who.partition("/")[0] for offender in offenders if "/" in offender.who}
    if not names:
        return Stragglers([Straggler(offender, None) for offender in offenders], [])
    known = {row.slug: row for row in Consumer.objects.filter(slug__in=names).select_related("team")}
    owners = _owners({row.team_id for row in known.values()})
    rows = []
    for offender in offenders:
        consumer = known.get(offender.who.partition("/")[0])
        team = consumer.team_id if consumer else None
        rows.append(Straggler(offender, consumer, owners.get(team, ()) if team else ()))
    return Stragglers(rows, [known[slug] for slug in sorted(known)])


def _owners(teams: set[uuid.UUID]) -> Mapping[uuid.UUID, list[User]]:
    by_role: dict[tuple[uuid.UUID, str], list[User]] = {}
    members = Membership.objects.filter(
        team_id__in=teams, role__in=[Role.LEAD, Role.OPERATOR], user__is_active=True
    )
    for member in members.select_related("user").order_by("user__username"):
        by_role.setdefault((member.team_id, member.role), []).append(member.user)
    return {
        team: by_role.get((team, Role.LEAD.value)) or by_role.get((team, Role.OPERATOR.value), [])
        for team in teams
    }
