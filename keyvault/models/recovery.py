"""What a restore needs: the backups that were made, and what is held back since one was put back."""

from __future__ import annotations

from django.db import models

from keyvault.models.base import UUIDModel
from keyvault.models.custody import Key


class Backup(UUIDModel):
    """A backup that may still be put back. ``kids``: the KEKs that its ciphertexts need."""

    made_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    kids = models.JSONField(default=list)
    sequence = models.BigIntegerField()  # the end of its audit chain

    class Meta:
        ordering = ["-made_at"]


class Quarantine(UUIDModel):
    """After a restore: consumers are not given this key; without ``key``, none at all.

    Delivery keeps these rows in memory; triggers tell it of every change.
    """

    key = models.OneToOneField(Key, null=True, on_delete=models.CASCADE, related_name="quarantine")
    reason = models.CharField(max_length=200)
    since = models.DateTimeField()
    sequence = models.BigIntegerField()  # the end of the audit chain that was put back
