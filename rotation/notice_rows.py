"""Rows of notices: where they go, what waits to be sent, and which trouble is still nobody's."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from django.db import models
from django.db.models import Q

from keyvault.models import Team
from keyvault.models.base import UUIDModel, slug_field

if TYPE_CHECKING:
    from keyvault.actors import Actor

CHANNEL_KINDS = ("mail", "chat", "webhook")
LEVELS = ("owner", "lead", "security")  # in the order in which an incident reaches them
NOTICE_STATES = ("pending", "sent", "failed", "dropped")


class ChannelQuerySet(models.QuerySet["Channel"]):
    def for_actor(self, actor: Actor) -> Self:
        return self if actor.sees_everything else self.filter(team_id__in=actor.team_ids)

    def of_organisation(self) -> Self:
        """Those that hear of what belongs to no team."""
        return self.filter(team__isnull=True, enabled=True, personal=False)

    def hearing(self, team_id: object) -> Self:
        """Those that hear of this team's keys: its own, and the organisation's."""
        return self.filter(Q(team_id=team_id) | Q(team__isnull=True), enabled=True, personal=False)


class Channel(UUIDModel):
    """A way to people or to another program. Written by ``services.channels``, its result by ``notices``."""

    slug = slug_field()
    team = models.ForeignKey(
        Team, null=True, blank=True, on_delete=models.PROTECT, related_name="channels"
    )  # null: the whole organisation
    kind = models.CharField(max_length=8, choices=[(kind, kind) for kind in CHANNEL_KINDS])
    # An owner's channel hears everything; the others hear of incidents that last longer than ``after``.
    level = models.CharField(max_length=8, default="owner", choices=[(level, level) for level in LEVELS])
    after_seconds = models.PositiveIntegerField(default=0)
    addresses = models.JSONField(default=list, blank=True)  # mail; empty: people by their role
    place = models.CharField(max_length=260, blank=True)  # the host of the address, which may be shown
    # The address and the signing secrets, sealed under the system KEK.
    ciphertext = models.BinaryField(null=True, blank=True)
    wrapped_dek = models.BinaryField(null=True, blank=True)
    kek_kid = models.CharField(max_length=64, blank=True)
    previous_until = models.DateTimeField(null=True, blank=True)  # the former signing secret signs until then
    digest_at = models.CharField(max_length=5, blank=True)  # HH:MM in ``zone``; empty: at once
    zone = models.CharField(max_length=64, default="UTC")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField()
    # The one by which people hear of their own accounts. It has no readers but the one of each notice.
    personal = models.BooleanField(default=False, db_default=False)
    # Sending: one worker at a time, so that notices arrive in order.
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    wait_until = models.DateTimeField(null=True, blank=True)  # the other side asked for, or needs, a pause
    last_ok_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True)

    objects = ChannelQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=CHANNEL_KINDS), name="channel_kind"),
            models.CheckConstraint(condition=Q(level__in=LEVELS), name="channel_level"),
            models.CheckConstraint(
                condition=Q(kind="mail", ciphertext__isnull=True)
                | (~Q(kind="mail") & Q(ciphertext__isnull=False, wrapped_dek__isnull=False)),
                name="channel_address_is_sealed",
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    def due_for(self, opened_at: datetime) -> datetime:
        """When this channel is to hear of an incident that began then."""
        return opened_at + timedelta(seconds=self.after_seconds)


class Notice(UUIDModel):
    """One thing to tell on one channel. Written in the transaction of what it tells."""

    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="notices")
    recipient = models.CharField(max_length=254, blank=True)  # a person's mail address; empty: the channel's
    sequence = models.BigIntegerField()  # of the audit chain, whose lock puts them in the order of commits
    dedup = models.CharField(max_length=200)
    kind = models.CharField(max_length=32)
    facts = models.JSONField()
    digest = models.BooleanField(default=False)  # waits for the daily message
    created_at = models.DateTimeField()
    next_at = models.DateTimeField()
    give_up_at = models.DateTimeField()
    state = models.CharField(max_length=8, default="pending")
    tries = models.PositiveIntegerField(default=0)
    message = models.CharField(max_length=500, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["sequence", "created_at", "id"]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(state="pending"), name="notice_due"),
            models.Index(
                fields=["channel", "digest", "sequence"], condition=Q(state="pending"), name="notice_line"
            ),
            models.Index(fields=["channel", "-created_at"], name="notice_latest"),
            models.Index(
                fields=["finished_at"], condition=Q(finished_at__isnull=False), name="notice_finished"
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["channel", "recipient", "dedup"], name="notice_once"),
            models.CheckConstraint(condition=Q(state__in=NOTICE_STATES), name="notice_state"),
        ]


class Incident(UUIDModel):
    """A rotation that is late, stands still or needs a person, until somebody acts or it ends."""

    rotation = models.ForeignKey("rotation.Rotation", on_delete=models.CASCADE, related_name="incidents")
    code = models.CharField(max_length=32)  # late, stands, or what the attention is about
    opened_at = models.DateTimeField()
    level = models.CharField(max_length=8, blank=True)  # the highest that was told; empty: only watched yet
    next_at = models.DateTimeField(null=True, blank=True)  # when to look whether somebody else must hear
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["opened_at"]
        indexes = [
            models.Index(fields=["next_at"], condition=Q(next_at__isnull=False), name="incident_due"),
            models.Index(fields=["rotation", "code"], name="incident_rotation"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["rotation"], condition=Q(closed_at__isnull=True), name="incident_one_open"
            )
        ]
