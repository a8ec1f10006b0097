"""Celery entrances of keyvault. The work is in the services; the clock is read here."""

from __future__ import annotations

from celery import shared_task

from keyvault import clock
from keyvault.services import changes, replies, retention, sealing, usage


@shared_task(name="keyvault.tasks.roll_up")
def roll_up() -> int:
    """Fold deliveries and verifications; returns how many. Also seals and forgets."""
    now = clock.now()
    replies.forget_expired(now=now)
    changes.prune()
    # Web processes do so as they deliver; what one that was killed left behind is sealed here.
    sealing.seal(now)
    return usage.roll_up()


@shared_task(name="keyvault.tasks.tidy")
def tidy() -> dict[str, int]:
    """Sum up old usage reports and forget what is too old; returns how many rows of each sort went."""
    return retention.tidy(clock.now())
