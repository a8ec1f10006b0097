"""Which approvals of a rotation count now, and why the others do not. Reads only.

An approval is one person's yes to one transition under one plan. It counts while it has not expired, the plan
is still that one, and the person is active, may still operate here, and is not who asked for the rotation.
A break-glass is the yes of one person alone, also of who asked; it stands for as many as are needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from keyvault.actors import actor_for
from keyvault.models import User
from rotation.models import Approval, Rotation
from rotation.planned import rotation_digest

LAPSED = "given for another plan"
ALONE = 1_000  # how many a break-glass stands for: more than any policy asks for


@dataclass(frozen=True)
class GivenApproval:
    """One approval; ``lapsed`` says why it does not count (empty: it does)."""

    transition: str
    who: str
    names: frozenset[str]
    at: datetime
    expires_at: datetime
    reason: str
    lapsed: str = ""
    alone: bool = False


def names_of(user: User) -> frozenset[str]:
    """What tells a person from another: two accounts that share one of these are one person."""
    return frozenset(name.casefold() for name in (user.get_username(), user.email) if name)


def is_requester(rotation: Rotation, user: User) -> bool:
    """Whether this person asked for the rotation, under whichever of their accounts."""
    requester = rotation.requester
    if requester is None:
        return user.get_username() == rotation.requested_by
    return bool(names_of(user) & names_of(requester))


def approvals_of(rotation: Rotation, now: datetime) -> tuple[GivenApproval, ...]:
    """Every approval that was ever given, oldest first (one query where there is none)."""
    rows = list(
        Approval.objects.filter(rotation=rotation).select_related("user").order_by("created_at", "id")
    )
    if not rows:
        return ()
    digest = rotation_digest(rotation)
    return tuple(
        GivenApproval(
            transition=row.transition,
            who=row.user.get_username(),
            names=names_of(row.user),
            at=row.created_at,
            expires_at=row.expires_at,
            reason=row.reason,
            lapsed=_why_not(row, rotation, digest, now),
            alone=row.review_due_at is not None,
        )
        for row in rows
    )


def _why_not(row: Approval, rotation: Rotation, digest: str, now: datetime) -> str:
    who = row.user.get_username()
    if row.expires_at <= now:
        return f"the approval of {who} has expired"
    if row.plan != digest:
        return f"the approval of {who} was {LAPSED}"
    if not row.user.is_active:
        return f"{who} is not active any more"
    if not actor_for(row.user).may("operate", rotation.key.service.team_id):
        return f"{who} may not operate this key any more"
    if row.review_due_at is None and is_requester(rotation, row.user):
        return f"{who} asked for this rotation"
    return ""


def counted(given: Iterable[GivenApproval], transition: str, *, but: frozenset[str] = frozenset()) -> int:
    """How many different people approve this transition, without those who share a name with ``but``.

    ``ALONE`` where somebody broke the glass.
    """
    people: set[str] = set(but)
    count = 0
    for approval in given:
        if approval.transition == transition and not approval.lapsed:
            if approval.alone:
                return ALONE
            count += not approval.names & people
            people |= approval.names
    return count


def lapses(given: Iterable[GivenApproval]) -> dict[str, str]:
    """Per transition why approvals do not count, the latest last."""
    found: dict[str, list[str]] = {}
    for approval in given:
        if approval.lapsed:
            found.setdefault(approval.transition, []).append(approval.lapsed)
    return {transition: "; ".join(reasons) for transition, reasons in found.items()}
