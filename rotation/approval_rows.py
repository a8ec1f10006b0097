"""Rows of approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from django.db import models
from django.db.models import Q

from keyvault.models import User
from keyvault.models.base import UUIDModel

if TYPE_CHECKING:
    from keyvault.actors import Actor


class ApprovalQuerySet(models.QuerySet["Approval"]):
    def for_actor(self, actor: Actor) -> Self:
        if actor.sees_everything:
            return self
        return self.filter(rotation__key__service__team_id__in=actor.team_ids)

    def to_review(self) -> Self:
        return self.filter(review_due_at__isnull=False, reviewed_at__isnull=True)


class Approval(UUIDModel):
    """A person's yes to one transition of one rotation. Written by ``services``.

    With ``review_due_at`` it is a break-glass: one person decided alone, and another one
    looks at it afterwards.
    """

    rotation = models.ForeignKey("rotation.Rotation", on_delete=models.CASCADE, related_name="approvals")
    transition = models.CharField(max_length=16)  # one of policy.APPROVALS
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    plan = models.CharField(max_length=64, blank=True)  # digest of what was approved
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    review_due_at = models.DateTimeField(null=True, blank=True)
    reviewed_at = models.DateTimeField(null=True, blank=True)
    reviewer = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    sound = models.BooleanField(null=True, blank=True)  # what the review found
    review = models.CharField(max_length=500, blank=True, default="", db_default="")
    overdue_told_at = models.DateTimeField(null=True, blank=True)

    objects = ApprovalQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["review_due_at"],
                condition=Q(review_due_at__isnull=False, reviewed_at__isnull=True),
                name="approval_to_review",
            )
        ]
        constraints = [
            # Each break-glass stays as it was; a plain approval may be given anew.
            models.UniqueConstraint(
                fields=["rotation", "transition", "user"],
                condition=Q(review_due_at__isnull=True),
                name="approval_once",
            )
        ]
