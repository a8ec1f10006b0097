"""What is kept: environments, providers, services, keys and their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models import Q

from keyvault.domain import State
from keyvault.models.base import UUIDModel, slug_field
from keyvault.models.people import Team

if TYPE_CHECKING:
    from keyvault.actors import Actor


class Installation(UUIDModel):
    """One row: the identity of this Keyturn, bound into every ciphertext."""

    singleton = models.BooleanField(default=True, unique=True)
    created_at = models.DateTimeField()


class KekCanary(UUIDModel):
    """A sealed known text per KEK, opened at boot to prove that this process holds the right keys."""

    environment = models.CharField(max_length=63)
    kid = models.CharField(max_length=64, unique=True)
    ciphertext = models.BinaryField()
    wrapped_dek = models.BinaryField()
    created_at = models.DateTimeField()
    promoted_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)


class KekHolder(UUIDModel):
    """A process that is alive, and the KEKs that it knows: {environment: {"primary": kid, "kids": [...]}}."""

    title = models.CharField(max_length=255)
    held = models.JSONField()
    at = models.DateTimeField(db_index=True)


class Environment(UUIDModel):
    slug = slug_field()
    name = models.CharField(max_length=120)
    protected = models.BooleanField(default=False)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position"]

    def __str__(self) -> str:
        return self.slug


class Provider(UUIDModel):
    """An outside service that honours keys, described as data."""

    slug = slug_field()
    name = models.CharField(max_length=120)
    base_url = models.CharField(max_length=500, blank=True)
    auth_header = models.CharField(max_length=64, default="X-API-Key")
    auth_scheme = models.CharField(max_length=32, blank=True)
    driver = models.CharField(max_length=32)
    driver_config = models.JSONField(default=dict, blank=True)
    probe = models.JSONField(null=True, blank=True)
    errors = models.CharField(max_length=8, choices=[("nested", "nested"), ("flat", "flat")])
    key_affine = models.BooleanField(default=False)
    max_job_age_seconds = models.PositiveIntegerField(default=3600)
    max_keys = models.PositiveSmallIntegerField(null=True, blank=True)
    derived_token_seconds = models.PositiveIntegerField(default=0)
    dashboard_url = models.CharField(max_length=500, blank=True)
    # The credential of the provider's management API, sealed under the system KEK.
    admin_ciphertext = models.BinaryField(null=True, blank=True)
    admin_wrapped_dek = models.BinaryField(null=True, blank=True)
    admin_kid = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class ServiceQuerySet(models.QuerySet["Service"]):
    def for_actor(self, actor: Actor) -> Self:
        return self if actor.sees_everything else self.filter(team_id__in=actor.team_ids)


class Service(UUIDModel):
    slug = slug_field()
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="services")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="services")
    description = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()

    objects = ServiceQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class KeyQuerySet(models.QuerySet["Key"]):
    def for_actor(self, actor: Actor) -> Self:
        return self if actor.sees_everything else self.filter(service__team_id__in=actor.team_ids)

    def named(self, service: str, environment: str) -> Self:
        return self.filter(service__slug=service, environment__slug=environment)


class Key(UUIDModel):
    """One service in one environment. Its three labels say which version answers whom."""

    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="keys")
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="keys")
    current = models.OneToOneField(
        "KeyVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="current_of"
    )
    pending = models.OneToOneField(
        "KeyVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="pending_of"
    )
    previous = models.OneToOneField(
        "KeyVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="previous_of"
    )
    weight = models.PositiveSmallIntegerField(null=True, blank=True)
    split_salt = models.BinaryField(max_length=32, default=bytes)
    canaries = models.JSONField(default=list, blank=True)
    pinned = models.JSONField(default=list, blank=True)
    refresh_seconds = models.PositiveIntegerField(default=300)
    never_shown = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    mac = models.BinaryField(max_length=32)

    objects = KeyQuerySet.as_manager()

    class Meta:
        ordering = ["service__slug", "environment__position"]
        constraints = [
            models.UniqueConstraint(fields=["service", "environment"], name="key_once_per_environment"),
            # NULL compared with anything is NULL, which a CHECK lets pass.
            models.CheckConstraint(
                condition=Q(weight__isnull=True, pending__isnull=True)
                | Q(weight__isnull=False, weight__gte=0, weight__lte=100, pending__isnull=False),
                name="key_weight_with_pending",
            ),
            models.CheckConstraint(
                condition=~Q(pending=models.F("current")) | Q(pending__isnull=True) | Q(current__isnull=True),
                name="key_pending_not_current",
            ),
            models.CheckConstraint(
                condition=~Q(previous=models.F("current"))
                | Q(previous__isnull=True)
                | Q(current__isnull=True),
                name="key_previous_not_current",
            ),
            models.CheckConstraint(
                condition=Q(pending__isnull=True) | Q(previous__isnull=True), name="key_pending_or_previous"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.service.slug}/{self.environment.slug}"

    def mac_fields(self) -> tuple[Any, ...]:
        return (
            str(self.id),
            str(self.service_id),
            str(self.environment_id),
            str(self.current_id or ""),
            str(self.pending_id or ""),
            str(self.previous_id or ""),
            self.weight,
            bytes(self.split_salt),
            ",".join(self.canaries),
            ",".join(self.pinned),
            int(self.never_shown),
        )


class KeyVersion(UUIDModel):
    """One concrete value of a key. Number, key and ciphertext never change; a trigger holds that too."""

    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, default=State.REQUESTED)
    ciphertext = models.BinaryField(null=True, blank=True)
    wrapped_dek = models.BinaryField(null=True, blank=True)
    kek_kid = models.CharField(max_length=64, blank=True)
    fingerprint = models.CharField(max_length=64, blank=True)  # keyed digest, hexadecimal
    token_digest = models.BinaryField(max_length=32, null=True, blank=True)  # keys we issue: for look-up
    provider_key_id = models.CharField(max_length=200, blank=True)
    # Set while a rolled-back version must not be handed out although the provider honours it.
    withheld_at = models.DateTimeField(null=True, blank=True)
    compromised_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    activated_at = models.DateTimeField(null=True, blank=True)
    disabled_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    destroyed_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    mac = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["key", "-number"]
        indexes = [
            models.Index(fields=["fingerprint"], name="version_fingerprint"),
            models.Index(
                fields=["expires_at"], condition=Q(expires_at__isnull=False), name="version_expires"
            ),
            models.Index(
                fields=["compromised_at"],
                condition=Q(compromised_at__isnull=False),
                name="version_compromised",
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["key", "number"], name="version_number_once"),
            models.UniqueConstraint(
                fields=["key", "fingerprint"],
                condition=~Q(fingerprint=""),
                name="version_secret_once_per_key",
            ),
            models.UniqueConstraint(
                fields=["token_digest"], condition=Q(token_digest__isnull=False), name="version_token_once"
            ),
            models.CheckConstraint(
                condition=Q(state__in=[state.value for state in State]), name="version_state"
            ),
            models.CheckConstraint(
                condition=Q(state__in=[State.REQUESTED, State.DESTROYED], ciphertext__isnull=True)
                | Q(
                    state__in=[State.ACTIVE, State.DISABLED, State.REVOKED],
                    ciphertext__isnull=False,
                    wrapped_dek__isnull=False,
                ),
                name="version_sealed_while_held",
            ),
            models.CheckConstraint(
                condition=~Q(state=State.REVOKED) | Q(revoked_at__isnull=False), name="version_revoked_dated"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} v{self.number}"

    @property
    def short_fingerprint(self) -> str:
        """Sixteen digits in groups of four, for people to compare."""
        return "-".join(self.fingerprint[i : i + 4] for i in range(0, 16, 4)) if self.fingerprint else ""

    def mac_fields(self) -> tuple[Any, ...]:
        return (
            str(self.id),
            str(self.key_id),
            self.number,
            str(self.state),
            self.kek_kid,
            self.fingerprint,
            bytes(self.token_digest or b""),
            self.provider_key_id,
            self.withheld_at,
            self.compromised_at,
            self.revoked_at,
            self.destroyed_at,
            self.expires_at,
        )
