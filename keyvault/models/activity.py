"""What happened: deliveries, usage, audit events, and the small rows that keep processes honest.

Deliveries and verifications are appended at a high rate and folded soon after (``keyvault.services.usage``):
times and numbers of long ago are read from the folded rows, only the tail from what was appended.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import models

from keyvault.models.access import Consumer, ConsumerToken
from keyvault.models.base import UUIDModel
from keyvault.models.custody import Key, KeyVersion

OUTCOMES = (
    "ok",
    "auth_invalid",
    "auth_missing",
    "rate_limited",
    "not_found_job",
    "client_error",
    "server_error",
    "timeout",
)
VERIFICATION_CODES = ("valid", "revoked", "expired", "disabled", "rate_limited")

# What points from a table of many rows at one that is never deleted: the database need not check it for each
# row, and each index would be written for each row. Django still refuses to delete what is pointed at.
_UNCHECKED: Final[dict[str, Any]] = {
    "on_delete": models.PROTECT,
    "related_name": "+",
    "db_constraint": False,
    "db_index": False,
}


class Delivery(models.Model):
    """One answer to a consumer, durable before the answer leaves."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()  # of the answer; one replayed after an outage comes with an old time
    key = models.ForeignKey(Key, **_UNCHECKED)
    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    consumer = models.ForeignKey(Consumer, **_UNCHECKED)
    token = models.ForeignKey(ConsumerToken, **_UNCHECKED)
    instance = models.CharField(max_length=128)
    label = models.CharField(max_length=16)
    credential = models.CharField(max_length=16)  # consumer_token | access_token
    status = models.PositiveSmallIntegerField()  # 200, or 304 without a key
    request_id = models.CharField(max_length=64)

    class Meta:
        # The tail of one key: what was appended for it beyond the fold mark, whatever its time.
        indexes = [models.Index(fields=["key", "id"], name="delivery_key")]


class Verification(models.Model):
    """Checks of a key that we issued: ``count`` of one caller with one result. Gone once it is folded."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    consumer = models.ForeignKey(Consumer, null=True, blank=True, **_UNCHECKED)  # null: forward-auth
    code = models.CharField(max_length=16)  # one of VERIFICATION_CODES
    count = models.PositiveIntegerField(default=1)

    class Meta:
        indexes = [models.Index(fields=["version"], name="verification_version")]


class FoldMark(models.Model):
    """One row: the last delivery that is folded. Whoever folds locks it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    delivery_id = models.BigIntegerField(default=0)


class SealMark(models.Model):
    """One row: the last delivery that is sealed into the audit chain. Whoever seals locks it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    delivery_id = models.BigIntegerField(default=0)


class UsageReport(UUIDModel):
    """A consumer tells how versions worked. One per (consumer, key, instance, sequence)."""

    consumer = models.ForeignKey(Consumer, on_delete=models.PROTECT, related_name="+")
    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="+")
    instance = models.CharField(max_length=128)
    sequence = models.BigIntegerField()
    from_at = models.DateTimeField()
    to_at = models.DateTimeField()
    received_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["consumer", "key", "instance", "sequence"], name="usage_report_once"
            )
        ]
        indexes = [models.Index(fields=["received_at"], name="usage_report_received")]


class UsageLine(models.Model):
    """The counters of one version and credential in one usage report."""

    report = models.ForeignKey(UsageReport, on_delete=models.CASCADE, related_name="lines")
    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="+")
    version = models.ForeignKey(KeyVersion, on_delete=models.PROTECT, related_name="+")
    consumer = models.ForeignKey(Consumer, on_delete=models.PROTECT, related_name="+")
    instance = models.CharField(max_length=128)
    received_at = models.DateTimeField()
    to_at = models.DateTimeField()
    credential = models.CharField(max_length=16)  # key | access_token
    ok = models.PositiveIntegerField(default=0)
    auth_invalid = models.PositiveIntegerField(default=0)
    auth_missing = models.PositiveIntegerField(default=0)
    rate_limited = models.PositiveIntegerField(default=0)
    not_found_job = models.PositiveIntegerField(default=0)
    client_error = models.PositiveIntegerField(default=0)
    server_error = models.PositiveIntegerField(default=0)
    timeout = models.PositiveIntegerField(default=0)
    jobs_opened = models.PositiveIntegerField(default=0)
    jobs_closed = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [
            models.Index(fields=["version", "to_at"], name="usage_version_to"),
            # What came since somebody last looked, also where it tells of long ago.
            models.Index(fields=["version", "received_at"], name="usage_version_received"),
        ]


class ReportBucket(models.Model):
    """Usage reports of some days ago, summed up by the minute in which each ended; their lines are gone."""

    key = models.ForeignKey(Key, **_UNCHECKED)
    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    consumer = models.ForeignKey(Consumer, **_UNCHECKED)
    instance = models.CharField(max_length=128)
    credential = models.CharField(max_length=16)  # key | access_token
    minute = models.DateTimeField()
    ok = models.PositiveBigIntegerField(default=0)
    auth_invalid = models.PositiveBigIntegerField(default=0)
    auth_missing = models.PositiveBigIntegerField(default=0)
    rate_limited = models.PositiveBigIntegerField(default=0)
    not_found_job = models.PositiveBigIntegerField(default=0)
    client_error = models.PositiveBigIntegerField(default=0)
    server_error = models.PositiveBigIntegerField(default=0)
    timeout = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            # In this order it is also the index for a span of time of one version.
            models.UniqueConstraint(
                fields=["version", "minute", "consumer", "instance", "credential"], name="report_bucket_once"
            )
        ]


class LastUse(models.Model):
    """When an instance last reported that it used a version: one row, however often it reports."""

    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    consumer = models.ForeignKey(Consumer, **_UNCHECKED)
    instance = models.CharField(max_length=128)
    last_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["version", "last_at"], name="last_use_version")]
        constraints = [
            models.UniqueConstraint(fields=["version", "consumer", "instance"], name="last_use_once")
        ]


class OpenJobs(UUIDModel):
    """Jobs that an instance opened under a version minus those it closed, as its usage reports add up.

    Reports may come in any order, so that ``open`` can be below 0 for a while; then none is open.
    """

    version = models.ForeignKey(KeyVersion, on_delete=models.PROTECT, related_name="+", db_index=False)
    consumer = models.ForeignKey(Consumer, on_delete=models.PROTECT, related_name="+", db_index=False)
    instance = models.CharField(max_length=128)
    open = models.BigIntegerField(default=0)
    last_to_at = models.DateTimeField()  # the end of the latest report

    class Meta:
        indexes = [
            models.Index(
                fields=["version", "last_to_at"], condition=models.Q(open__gt=0), name="open_jobs_version"
            )
        ]
        constraints = [
            models.UniqueConstraint(fields=["version", "consumer", "instance"], name="open_jobs_once")
        ]


class UsageBucket(models.Model):
    """Deliveries folded into minutes: how many there were."""

    key = models.ForeignKey(Key, **_UNCHECKED)
    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    consumer = models.ForeignKey(Consumer, **_UNCHECKED)
    instance = models.CharField(max_length=128)
    minute = models.DateTimeField()
    deliveries = models.PositiveIntegerField(default=0)
    last_delivery_at = models.DateTimeField()

    class Meta:
        constraints = [
            # In this order it is also the index for a span of time of one key.
            models.UniqueConstraint(
                fields=["key", "minute", "version", "consumer", "instance"], name="usage_bucket_once"
            )
        ]


class LastDelivery(models.Model):
    """When an instance was last given a version, as far as deliveries are folded."""

    key = models.ForeignKey(Key, **_UNCHECKED)
    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    consumer = models.ForeignKey(Consumer, **_UNCHECKED)
    instance = models.CharField(max_length=128)
    last_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["key", "last_at"], name="last_delivery_key"),
            models.Index(fields=["consumer", "last_at"], name="last_delivery_consumer"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["version", "consumer", "instance"], name="last_delivery_once")
        ]


class VerificationBucket(models.Model):
    """Verifications folded into minutes. ``caller`` is the slug of a consumer, or ``forward-auth``."""

    version = models.ForeignKey(KeyVersion, **_UNCHECKED)
    caller = models.CharField(max_length=63)
    code = models.CharField(max_length=16)
    minute = models.DateTimeField()
    count = models.BigIntegerField(default=0)
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            # In this order it is also the index for a span of time of one version.
            models.UniqueConstraint(
                fields=["version", "minute", "caller", "code"], name="verification_bucket_once"
            )
        ]


class AuditHead(models.Model):
    """One row, locked by every writer of the chain."""

    singleton = models.BooleanField(default=True, unique=True)
    sequence = models.BigIntegerField(default=0)
    mac = models.BinaryField(max_length=32, default=bytes)


class AuditEvent(models.Model):
    """An append-only fact. ``mac`` chains it to the event before."""

    sequence = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField()
    name = models.CharField(max_length=64)
    actor_kind = models.CharField(max_length=16)
    actor = models.CharField(max_length=150)
    team_id = models.UUIDField(null=True, blank=True)
    service = models.CharField(max_length=63, blank=True)
    environment = models.CharField(max_length=63, blank=True)
    subject = models.CharField(max_length=64, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    details = models.JSONField(default=dict)
    request_id = models.CharField(max_length=64, blank=True)
    mac = models.BinaryField(max_length=32)

    class Meta:
        ordering = ["-sequence"]
        indexes = [
            models.Index(fields=["service", "environment", "-sequence"], name="audit_key"),
            models.Index(fields=["name", "-sequence"], name="audit_name"),
            models.Index(fields=["actor", "-sequence"], name="audit_actor"),
            models.Index(fields=["team_id", "-sequence"], name="audit_team"),
            models.Index(fields=["at"], name="audit_at"),
            # What people read: most events of a busy installation are seals.
            models.Index(
                fields=["-sequence"],
                condition=~models.Q(name="deliveries:sealed"),
                name="audit_without_seals",
            ),
        ]


class IdempotentReply(UUIDModel):
    """The answer to a POST with an Idempotency-Key. Sealed, because some answers hold a token."""

    caller = models.CharField(max_length=64)
    idempotency_key = models.CharField(max_length=255)
    request_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True, blank=True)  # null while the first one runs
    ciphertext = models.BinaryField(null=True, blank=True)
    wrapped_dek = models.BinaryField(null=True, blank=True)
    kek_kid = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["caller", "idempotency_key"], name="idempotent_reply_once")
        ]


class Heartbeat(models.Model):
    """When a part of Keyturn was last seen alive."""

    name = models.CharField(max_length=32, primary_key=True)
    at = models.DateTimeField()
