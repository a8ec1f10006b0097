"""Celery entrances of keyvault. The work is in the services; the clock is read here."""

from __future__ import annotations

from celery import shared_task

from keyvault import clock
from keyvault.services import replies, usage


@shared_task(name="keyvault.tasks.roll_up")
def roll_up() -> int:
    """Fold deliveries into minute buckets until few are left; returns how many. Forgets old replies too."""
    replies.forget_expired(now=clock.now())
    total = 0
    while folded := usage.roll_up(now=clock.now()):
        total += folded
    return total
