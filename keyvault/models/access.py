"""Who may ask: consumers, their tokens and their grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.db import models

from keyvault.models.base import UUIDModel, slug_field
from keyvault.models.custody import Environment, Service
from keyvault.models.people import Team

if TYPE_CHECKING:
    from keyvault.actors import Actor


class ConsumerQuerySet(models.QuerySet["Consumer"]):
    def for_actor(self, actor: Actor) -> Self:
        return self if actor.sees_everything else self.filter(team_id__in=actor.team_ids)


class Consumer(UUIDModel):
    """A workload that asks for keys."""

    slug = slug_field()
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="consumers")
    created_at = models.DateTimeField()

    objects = ConsumerQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class ConsumerToken(UUIDModel):
    """A consumer's long-lived credential, pinned to one environment. Only its keyed digest is stored."""

    consumer = models.ForeignKey(Consumer, on_delete=models.PROTECT, related_name="tokens")
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="+")
    digest = models.BinaryField(max_length=32, unique=True)
    hint = models.CharField(max_length=32)
    cidrs = models.JSONField(default=list, blank=True)
    rate_per_minute = models.PositiveIntegerField(default=600)
    instance_limit = models.PositiveIntegerField(null=True, blank=True)  # null: any number of instances
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    replaces = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    mac = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["-created_at"]

    def mac_fields(self) -> tuple[Any, ...]:
        return (
            str(self.id),
            str(self.consumer_id),
            str(self.environment_id),
            bytes(self.digest),
            ",".join(self.cidrs),
            self.rate_per_minute,
            self.expires_at,
            self.revoked_at,
            # Only where there is one: a token without keeps the MAC that it had before limits existed.
            *(() if self.instance_limit is None else (self.instance_limit,)),
        )


class Seat(models.Model):
    """An instance that fetches with a token that has an instance limit. ``last_at`` is moved now and then.

    A token never has more seats than its limit (``keyvault.services.seats``).
    """

    token = models.ForeignKey(ConsumerToken, on_delete=models.CASCADE, related_name="seats", db_index=False)
    instance = models.CharField(max_length=128)
    last_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["token", "instance"], name="seat_once")]


class Grant(UUIDModel):
    """Consumer X may do these verbs with the key of service Y in environment Z."""

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="grants")
    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="grants")
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="+")
    verbs = models.JSONField(default=list)
    created_at = models.DateTimeField()
    mac = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["consumer__slug", "service__slug"]
        constraints = [
            models.UniqueConstraint(fields=["consumer", "service", "environment"], name="grant_once")
        ]

    def mac_fields(self) -> tuple[Any, ...]:
        return (
            str(self.id),
            str(self.consumer_id),
            str(self.service_id),
            str(self.environment_id),
            ",".join(self.verbs),
        )
