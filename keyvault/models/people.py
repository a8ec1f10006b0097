"""Teams, their members, and the tokens people use in scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.crypto import salted_hmac

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
    # Whether the identity provider gave that role, and so may take it away.
    organisation_role_from_sso = models.BooleanField(default=False)
    # Part of what every session is bound to: one more ends all of them.
    session_generation = models.PositiveIntegerField(default=0)
    time_zone = models.CharField(max_length=64, blank=True, default="")

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        bound = f"{self.password}|{self.session_generation}"
        return salted_hmac("keyturn.session", bound, secret=secret, algorithm="sha256").hexdigest()


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
    from_sso = models.BooleanField(default=False)  # given, and taken away, by the identity provider

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


class SetupLink(UUIDModel):
    """A link with which one person chooses a password, once. Only its keyed digest is stored.

    With ``user`` it is somebody who is there and lost the password; without, the person is made when the
    link is used, and joins ``team`` in ``role``.
    """

    username = models.CharField(max_length=150)
    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, related_name="setup_links")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, null=True, related_name="setup_links")
    role = models.CharField(max_length=16, blank=True, default="")
    digest = models.BinaryField(max_length=32, unique=True)
    made_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    mac = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["username"]

    def mac_fields(self) -> tuple[Any, ...]:
        team = str(self.team_id or "")
        return (
            str(self.id),
            self.username,
            self.user_id,
            team,
            self.role,
            bytes(self.digest),
            self.expires_at,
        )


class SecondFactorSeed(UUIDModel):
    """The seed of an authenticator app or of recovery codes, sealed under the system KEK."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="second_factor_seeds")
    ciphertext = models.BinaryField()
    wrapped_dek = models.BinaryField()
    kek_kid = models.CharField(max_length=63)
    created_at = models.DateTimeField()
