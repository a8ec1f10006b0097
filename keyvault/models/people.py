"""Teams, their members, and the tokens people use in scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.contrib.auth.models import AbstractUser
from django.db import models

from keyvault.domain import OrganisationRole, Role
from keyvault.models.base import UUIDModel, slug_field

if TYPE_CHECKING:
    from keyvault.actors import Actor


class User(AbstractUser):
    """A person. Team roles live in ``Membership``; this holds the role in the organisation."""

    organisation_role = models.CharField(
        max_length=16,
        blank=True,
        default=OrganisationRole.NONE,
        choices=[("", "none"), ("auditor", "auditor"), ("admin", "admin")],
    )


class TeamQuerySet(models.QuerySet["Team"]):
    def for_actor(self, actor: Actor) -> Self:
        return self if actor.sees_everything else self.filter(id__in=actor.team_ids)


class Team(UUIDModel):
    slug = slug_field()
    name = models.CharField(max_length=120)
    created_at = models.DateTimeField()

    objects = TeamQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class Membership(UUIDModel):
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in Role])
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "user"], name="membership_once"),
            models.CheckConstraint(
                condition=models.Q(role__in=[role.value for role in Role]), name="membership_role"
            ),
        ]


class UserToken(UUIDModel):
    """A person's credential for the management API. Only its keyed digest is stored."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    digest = models.BinaryField(max_length=32, unique=True)
    hint = models.CharField(max_length=32)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    mac = models.BinaryField(max_length=32)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(expires_at__gt=models.F("created_at")), name="user_token_expires_later"
            )
        ]

    def mac_fields(self) -> tuple[Any, ...]:
        return (str(self.id), self.user_id, bytes(self.digest), self.expires_at, self.revoked_at)
