"""Whose mail box a notice goes to, where a channel names no addresses."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from django.db.models import Q

from keyvault.domain import OrganisationRole, Role
from keyvault.models import Membership, User
from rotation.notice_rows import Channel
from rotation.notices.kinds import NoticeKind


def recipients(channel: Channel, kind: NoticeKind, team_id: uuid.UUID | None, who: str) -> list[str]:
    """Mail addresses for one notice; ``who`` asked for the rotation.

    1. An approval is wanted: everybody who may give it, and not the one who asked.
    2. Owners: who asked, and the operators of the team; its leads where there is neither.
    3. Leads of the team. 4. Security, and what belongs to no team: administrators of the organisation.
    """
    if channel.addresses:
        asked = set(_addresses(Q(username=who))) if kind is NoticeKind.APPROVAL_WANTED else set()
        return [address for address in channel.addresses if address not in asked]
    if team_id is None or channel.level == "security":
        return _administrators()
    leads = _members(team_id, Role.LEAD)
    if kind is NoticeKind.APPROVAL_WANTED:
        voters = _members(team_id, Role.OPERATOR) | leads
        return _addresses(Q(pk__in=voters) & ~Q(username=who)) or _administrators(but=who)
    if channel.level == "lead":
        return _addresses(Q(pk__in=leads))
    owners = _addresses(Q(username=who) | Q(pk__in=_members(team_id, Role.OPERATOR)))
    return owners or _addresses(Q(pk__in=leads))


def _members(team_id: uuid.UUID, role: Role) -> set[int]:
    rows = Membership.objects.filter(team_id=team_id, role=role.value)
    return set(rows.values_list("user_id", flat=True))


def _administrators(*, but: str = "") -> list[str]:
    return _addresses(Q(organisation_role=OrganisationRole.ADMIN.value) & ~Q(username=but))


def _addresses(chosen: Q) -> list[str]:
    found: Iterable[str] = (
        User.objects.filter(chosen, is_active=True).exclude(email="").values_list("email", flat=True)
    )
    return sorted(set(found))
