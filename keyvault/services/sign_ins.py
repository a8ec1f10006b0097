"""Signing in and out as events: every one that works, and those that do not, in bounds.

Whoever guesses passwords must not fill the audit: what went wrong is recorded for each person once in ten
minutes, with how often, and a hundred times an hour at most. What was typed as a name is never kept, because
people type their password there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from django.core.cache import cache
from django.db import transaction

from keyvault import audit
from keyvault.actors import SYSTEM, actor_for
from keyvault.models import AuditEvent, User

EVERY: Final = timedelta(minutes=10)  # a person's wrong attempts are told of once in this time
MOST: Final = 100  # of each kind in an hour, whoever is tried
_HOUR: Final = timedelta(hours=1)
_DAY: Final = 24 * 3600  # seconds; a count that nobody adds to is forgotten
FAILED: Final = "user:sign-in:failed"
LIMITED: Final = "user:sign-in:limited"
REFUSED: Final = "sign-on:refused"
NOBODY: Final = "a name that nobody has"


@transaction.atomic
def signed_in(user: User, *, how: str, address: str, known: bool, now: datetime) -> None:
    """Somebody is in, with everything that it takes. ``known``: in a browser that this person used before."""
    audit.record(
        "user:signed-in",
        actor=actor_for(user),
        now=now,
        subject=str(user.pk),
        user=user.get_username(),
        how=how,
        address=address,
        known=known,
    )


@transaction.atomic
def signed_out(user: User, *, why: str, now: datetime) -> None:
    name = user.get_username()
    audit.record("user:signed-out", actor=actor_for(user), now=now, subject=str(user.pk), user=name, why=why)


def failed(login: str, *, what: str, address: str, limited: bool, now: datetime) -> bool:
    """A wrong password or code, or with ``limited`` one that was not looked at any more.

    Returns whether it was recorded; what is passed over is in the count of the next one.
    """
    user = User.objects.filter(username__iexact=login.strip()).first()
    subject = str(user.pk) if user is not None else ""
    name = LIMITED if limited else FAILED
    counted = f"keyturn.{name}.{subject}"
    cache.add(counted, 0, timeout=_DAY)
    count = cache.incr(counted)
    who = user.get_username() if user is not None else NOBODY
    if not _once(name, subject, now=now, user=who, what=what, address=address, count=count):
        return False
    cache.set(counted, 0, timeout=_DAY)
    return True


def provider_refused(code: str, *, now: datetime) -> bool:
    """The provider of single sign-on said what is not believed; ``code`` says what was wrong with it."""
    return _once(REFUSED, code[:64], now=now, code=code)


def _once(name: str, subject: str, *, now: datetime, **details: Any) -> bool:
    lately = AuditEvent.objects.filter(name=name, at__gt=now - _HOUR)
    if audit.is_told(name, subject, since=now - EVERY) or lately.count() >= MOST:
        return False
    with transaction.atomic():
        audit.lock_chain()  # so that of many at the same moment one is told
        if audit.is_told(name, subject, since=now - EVERY):
            return False
        audit.record(name, actor=SYSTEM, now=now, subject=subject, **details)
    return True
