"""Break-glass reviewed: another person looks at what one decided alone, and the beat tells who does not."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction

from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.models import User
from rotation import engine
from rotation.approvals import names_of
from rotation.models import Approval

BATCH = 500


@transaction.atomic
def review(actor: Actor, approval: Approval, *, sound: bool, note: str, now: datetime) -> Approval:
    """Write down what another person thinks of a break-glass.

    Raises ``permission_denied`` for who broke the glass, under whichever account; ``invalid_transition``
    where it was reviewed already.
    """
    rotation = engine.lock(approval.rotation_id)
    actor.demand("operate", rotation.key.service.team_id)
    row = Approval.objects.select_related("user").get(pk=approval.pk)
    refuse_reviewer(actor, row)
    if row.review_due_at is None or row.reviewed_at is not None:
        raise KeyturnError("invalid_transition", "This break-glass has been reviewed already.")
    if not note.strip():
        raise invalid("note", "Say what you looked at and what you think of it.")
    row.reviewed_at, row.reviewer_id, row.sound, row.review = now, actor.user_id, sound, note[:500]
    row.save(update_fields=["reviewed_at", "reviewer", "sound", "review"])
    who = row.user.get_username()
    engine.event(
        rotation,
        "glass:reviewed",
        reason=note,
        now=now,
        actor=actor,
        transition=row.transition,
        who=who,
        sound=sound,
    )
    rotation.save(update_fields=["revision"])
    return row


def refuse_reviewer(actor: Actor, approval: Approval) -> None:
    """Raise ``permission_denied`` where this is no person, or the one who broke the glass."""
    if actor.user_id is None:
        raise denied("Only a person can review this.")
    if names_of(User.objects.get(pk=actor.user_id)) & names_of(approval.user):
        raise denied("Another person must review this: you decided it alone.")


def tell_overdue(now: datetime) -> None:
    """Each break-glass that nobody reviewed in time is told once."""
    late = Approval.objects.to_review().filter(review_due_at__lte=now, overdue_told_at__isnull=True)
    for approval_id, rotation_id in late.order_by("review_due_at").values_list("id", "rotation_id")[:BATCH]:
        _tell(approval_id, rotation_id, now)


@transaction.atomic
def _tell(approval_id: uuid.UUID, rotation_id: uuid.UUID, now: datetime) -> None:
    rotation = engine.lock(rotation_id)
    row = Approval.objects.to_review().select_related("user").filter(pk=approval_id).first()
    if row is None or row.overdue_told_at is not None:
        return
    row.overdue_told_at = now
    row.save(update_fields=["overdue_told_at"])
    who = row.user.get_username()
    reason = f"{who} approved the {row.transition.replace('_', ' ')} alone"
    engine.event(rotation, "glass:overdue", reason=reason, now=now, transition=row.transition, who=who)
    rotation.save(update_fields=["revision"])
