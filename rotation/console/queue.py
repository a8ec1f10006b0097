"""What waits for somebody's yes, as far as a person may see it; and what one person decided alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from keyvault.actors import Actor
from keyvault.models import User
from rotation.approvals import is_requester, names_of
from rotation.console.choices import APPROVED
from rotation.console.policywords import Change, differences
from rotation.models import Approval, Rotation
from rotation.policy import APPROVALS, from_json
from rotation.services.approving import transition_asked

SHOWN = 100
RELATED = (
    "key__service__provider",
    "key__service__team",
    "key__environment",
    "key__schedule__policy",
    "outgoing",
    "incoming",
    "requester",
    "record",
)
# Forcing is asked for where the old key will not fall quiet, and somebody else has to agree to it.
_FORCED = Q(attention="stragglers") & (
    Q(key__environment__protected=True) | Q(policy__approvals__force__gt=0)
)
_WANTED = Q(waiting_code__in=[f"approval_{transition}" for transition in APPROVALS]) | _FORCED


@dataclass(frozen=True)
class Ask:
    """One transition that waits. ``refusal``: why this person cannot approve it (empty: they can)."""

    rotation: Rotation
    transition: str
    words: str
    plan: dict[str, Any] | None
    changes: Sequence[Change]
    refusal: str
    own: bool


def awaiting(actor: Actor) -> QuerySet[Rotation]:
    return Rotation.objects.for_actor(actor).filter(_WANTED, finished_at__isnull=True)


def ask_of(rotation: Rotation, actor: Actor, user: User) -> Ask:
    """The rotation comes with what ``RELATED`` names."""
    transition = transition_asked(rotation)
    record = getattr(rotation, "record", None)
    return Ask(
        rotation=rotation,
        transition=transition,
        words=APPROVED[transition],
        plan=record.plan if record is not None else None,
        changes=_unlike_its_key(rotation),
        refusal=_refusal(rotation, actor, user),
        own=is_requester(rotation, user),
    )


def _refusal(rotation: Rotation, actor: Actor, user: User) -> str:
    if not actor.may("operate", rotation.key.service.team_id):
        return "Approving needs the role operator or lead in the team."
    if is_requester(rotation, user):
        return "You asked for it, so another person has to approve it."
    return ""


def _unlike_its_key(rotation: Rotation) -> Sequence[Change]:
    """How the policy of this rotation differs from the one that the key follows."""
    schedule = getattr(rotation.key, "schedule", None)
    if schedule is None:
        return ()
    return differences(schedule.policy.value, from_json(rotation.policy))


def asks(actor: Actor, user: User) -> list[Ask]:
    """What waits, the one that ends first at the top."""
    rows = awaiting(actor).select_related(*RELATED).order_by("deadline_at", "id")
    return [ask_of(rotation, actor, user) for rotation in rows[:SHOWN]]


@dataclass(frozen=True)
class ToReview:
    """A break-glass. ``refusal``: why this person cannot review it (empty: they can)."""

    approval: Approval
    words: str
    overdue: bool
    refusal: str


def to_review(approval: Approval, actor: Actor, user: User, now: datetime) -> ToReview:
    refusal = ""
    if not actor.may("operate", approval.rotation.key.service.team_id):
        refusal = "Reviewing needs the role operator or lead in the team."
    elif names_of(user) & names_of(approval.user):
        refusal = "You decided it alone, so another person has to review it."
    overdue = approval.review_due_at is not None and approval.review_due_at <= now
    return ToReview(approval, APPROVED[approval.transition], overdue, refusal)


def waiting_for(actor: Actor) -> int:
    """How many things wait for this very person."""
    if actor.user_id is None:
        return 0
    asked, reviews = awaiting(actor), Approval.objects.for_actor(actor).to_review()
    if not actor.is_admin:
        teams = [team for team in actor.team_ids if actor.may("operate", team)]
        if not teams:
            return 0
        asked = asked.filter(key__service__team_id__in=teams)
        reviews = reviews.filter(rotation__key__service__team_id__in=teams)
    asked = asked.exclude(requester_id=actor.user_id).exclude(requester=None, requested_by=actor.name)
    return asked.count() + reviews.exclude(user_id=actor.user_id).count()
