"""What is held back after a restore. The only writer of ``Quarantine``; delivery hears of it by triggers."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F

from keyvault.models import Key, Quarantine, SetupLink, User


def everything() -> Quarantine | None:
    """The row that holds back every key; None where there is none."""
    return Quarantine.objects.filter(key__isnull=True).first()


def held_keys() -> list[Quarantine]:
    """The keys that are held back one by one, by name."""
    rows = Quarantine.objects.filter(key__isnull=False).select_related("key__service", "key__environment")
    return list(rows.order_by("key__service__slug", "key__environment__position"))


def hold_everything(reason: str, *, sequence: int, now: datetime) -> None:
    """Consumers are given nothing from now on. Links and sessions end: some may have ended already.

    ``sequence``: the end of the audit chain that was put back.
    """
    if everything() is None:
        Quarantine.objects.create(key=None, reason=reason, since=now, sequence=sequence)
    SetupLink.objects.all().delete()
    User.objects.update(session_generation=F("session_generation") + 1)


def hold(key: Key, reason: str, *, sequence: int, now: datetime) -> None:
    """Nobody is given this key until it is released. A second reason changes nothing."""
    Quarantine.objects.get_or_create(key=key, defaults={"reason": reason, "since": now, "sequence": sequence})


def release(key: Key) -> None:
    Quarantine.objects.filter(key=key).delete()


def release_everything() -> None:
    """Keys that are held one by one stay held."""
    Quarantine.objects.filter(key__isnull=True).delete()
