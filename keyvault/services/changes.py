"""The change log is as long as it must be: who lags further behind starts from scratch."""

from __future__ import annotations

from typing import Final

from django.db import transaction

from keyvault.models import Change, ChangeCounter

KEPT: Final = 100_000


@transaction.atomic
def prune(keep: int = KEPT) -> int:
    """Delete all but the newest ``keep`` changes (>= 1); returns how many.

    Somewhat more stay where the oldest of them share their transaction with older ones: a number is kept or
    deleted as a whole, because readers ask for everything after one.
    """
    newest = Change.objects.order_by("-id").values_list("id", flat=True).first()
    if newest is None:
        return 0
    # Ids are given under the lock of the counter, so they are in the order of ``seq``.
    oldest_kept = Change.objects.filter(id__gt=newest - keep).order_by("id").values_list("seq", flat=True)[0]
    deleted, _ = Change.objects.filter(seq__lt=oldest_kept).delete()
    if deleted:
        # Last: every commit that changes something waits for this row.
        ChangeCounter.objects.filter(floor__lt=oldest_kept - 1).update(floor=oldest_kept - 1)
    return deleted
