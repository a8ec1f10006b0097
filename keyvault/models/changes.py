"""The change log: what delivery keeps in memory is told here when it is no longer true.

Database triggers write both tables (``keyvault.migrations.0004_changes``), in the transaction of the change
itself, so that no writer can forget it, not even one that goes around the services.
"""

from __future__ import annotations

from django.db import models


class ChangeCounter(models.Model):
    """One row. ``seq`` numbers the transactions that changed something; ``floor`` is the last pruned one."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    seq = models.BigIntegerField(default=0)
    floor = models.BigIntegerField(default=0)


class Change(models.Model):
    """One changed row. Several changes of one transaction share its ``seq``.

    ``kind`` is token, grant, key, jobs, or all (everything may have changed); ``ref`` is the row's id, for a
    version that of its key; ``parent`` is a grant's consumer.
    """

    seq = models.BigIntegerField(db_index=True)
    kind = models.CharField(max_length=8)
    ref = models.UUIDField(null=True)
    parent = models.UUIDField(null=True)
