"""KEKs of this installation: adding, promoting and retiring them, and what may be said about each.

Every verb is an intent first: the audit event is committed, then the keyring document is changed. A crash
in between leaves an event too many and a document that still fits all rows; the verb can be run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.db import transaction
from django.db.models import F

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.canary import check_canary, make_canary
from keyvault.crypto.envelope import Sealed
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.crypto.keyring import HeldKek
from keyvault.crypto.keyring_document import new_kid
from keyvault.exceptions import KeyturnError
from keyvault.keystore import environment_keys, installation_id, keys, new_kek
from keyvault.models import KekCanary
from keyvault.services import backups, kek_holders

log = structlog.get_logger("keyturn.keks")

# Whoever sealed something under the primary of before has committed it by then.
SETTLED: Final = timedelta(seconds=60)


@dataclass(frozen=True)
class KekStatus:
    """One KEK. ``state``: ``primary``, ``known`` (never primary yet), ``decrypt-only`` (primary once) or
    ``missing`` (rows need it, and this process does not hold it). ``age``: seconds since it was first seen
    here; None for one that never was. ``health``: ``ok``, ``stale`` (its provider is down), or why not."""

    environment: str
    kid: str
    provider: str
    key: str
    state: str
    rows: int
    age: float | None
    health: str


# Verbs ---------------------------------------------------------------------------------------------


def add(actor: Actor, environment: str, *, now: datetime, provider: str = "", key: str = "") -> str:
    """Add a KEK, not yet primary, and return its kid.

    ``provider`` and ``key`` (its name there) are those of the settings unless given. Raises ``KeyringError``
    and ``KeyServiceUnavailable``.
    """
    held = keys().keks
    held.demand_changeable()
    kid = new_kid(environment)
    kek = new_kek(environment, kid, provider=provider, key=key)
    with transaction.atomic():
        audit.record(
            "kek:added", actor=actor, now=now, environment=environment, kid=kid, provider=provider_of(kek)
        )
    held.add(environment, lambda *_: kek, kid=kid)
    ensure_canary(environment, kid, now=now)
    return kid


def promote(actor: Actor, environment: str, kid: str, *, now: datetime) -> None:
    """Seal under this KEK from now on. Nothing happens if it is the primary already.

    Refused with ``invalid_transition`` while a process that is alive and serves this environment does not
    know the kid: it could not read what the others seal. Raises ``KeyringError`` for a kid that is not held.
    """
    held = keys().keks
    held.demand_changeable()
    was = held.primary(environment)
    if kid == was:
        return
    _demand_held(environment, kid)
    serving = [holder for holder in kek_holders.live(now) if environment in holder.primaries]
    without = [holder.title for holder in serving if kid not in holder.kids]
    if without:
        raise KeyturnError(
            "invalid_transition",
            f"{kid} is not known to: {', '.join(without)}. Give these processes the keyring with it.",
            extra={"processes": without},
        )
    # A KEK that does not work must not become the primary.
    for one in (was, kid):
        ensure_canary(environment, one, now=now)
    _check_canary(environment, kid)
    with transaction.atomic():
        KekCanary.objects.filter(kid=was, promoted_at=None).update(promoted_at=F("created_at"))
        KekCanary.objects.filter(kid=kid).update(promoted_at=now)
        audit.record("kek:promoted", actor=actor, now=now, environment=environment, kid=kid, was=was)
    held.promote(environment, kid)


def retire(actor: Actor, environment: str, kid: str, *, now: datetime) -> None:
    """Take a KEK out of the keyring document for good.

    Refused with ``invalid_transition`` for the primary, while a row or a kept backup needs it, while a
    process that is alive still seals under it, and in the first minute after another became the primary:
    what was begun under this one may not be committed yet. Raises ``KeyringError`` for a kid that is not
    held.
    """
    held = keys().keks
    held.demand_changeable()
    _demand_held(environment, kid)
    reason = next(iter(_why_needed(environment, kid, now)), None)
    if reason is not None:
        raise KeyturnError("invalid_transition", f"{kid} cannot be retired: {reason}.")
    ensure_canary(environment, kid, now=now)
    with transaction.atomic():
        if KekCanary.objects.filter(kid=kid, retired_at=None).update(retired_at=now):
            audit.record("kek:retired", actor=actor, now=now, environment=environment, kid=kid)
    held.retire(environment, kid)


def _why_needed(environment: str, kid: str, now: datetime) -> Iterable[str]:
    primary = keys().keks.primary(environment)
    if kid == primary:
        yield f"it is the primary of {environment}; promote another first"
    if KekCanary.objects.filter(kid=primary, promoted_at__gt=now - SETTLED).exists():
        yield f"{primary} took over less than {SETTLED.total_seconds():.0f} s ago; try again in a minute"
    for holder in kek_holders.live(now):
        if holder.primaries.get(environment) == kid:
            yield f"{holder.title} still seals under it"
    rows = backups.kids_in_use().get(environment, {}).get(kid, 0)
    if rows:
        yield f"{rows} row(s) need it; run keyturn kek rewrap"
    if kid in backups.kids_in_backups(now):
        yield "a backup that may still be put back needs it"


def _demand_held(environment: str, kid: str) -> None:
    if kid not in {one.kid for one in keys().keks.keks() if one.environment == environment}:
        raise KeyringError(f"The keyring has no KEK {kid} under {environment}.")


def provider_of(kek: object) -> str:
    """Where a KEK is made: the name of a remote provider, or ``file``."""
    return str(getattr(kek, "provider", "file"))


# Telling -------------------------------------------------------------------------------------------


def status(*, now: datetime) -> list[KekStatus]:
    """Every KEK that is held here or that a row needs, by environment; the primary first."""
    held, needed = keys().keks.keks(), backups.kids_in_use()
    seen = {row.kid: row for row in KekCanary.objects.all()}
    found = []
    for environment in dict.fromkeys(one.environment for one in held):
        rows = needed.get(environment, {})
        mine = [one for one in held if one.environment == environment]
        for one in sorted(mine, key=lambda one: not one.primary):
            canary = seen.get(one.kid)
            found.append(_status(one, canary, rows.pop(one.kid, 0), now))
        for kid, count in rows.items():
            age = (now - seen[kid].created_at).total_seconds() if kid in seen else None
            found.append(KekStatus(environment, kid, "", "", "missing", count, age, "not held here"))
    return found


def _status(one: HeldKek, canary: KekCanary | None, rows: int, now: datetime) -> KekStatus:
    state = "primary" if one.primary else "known"
    if not one.primary and (rows or (canary is not None and canary.promoted_at is not None)):
        state = "decrypt-only"
    age = None if canary is None else (now - canary.created_at).total_seconds()
    health = _health(one.environment, one.kid)
    return KekStatus(one.environment, one.kid, one.provider, one.key, state, rows, age, health)


def _health(environment: str, kid: str) -> str:
    try:
        _check_canary(environment, kid)
    except KeyServiceUnavailable as error:
        return str(error)
    except IntegrityError:
        return "does not open its canary"
    state = next((one for one in environment_keys().states() if one.kid == kid), None)
    return "stale" if state is not None and state.stale else "ok"


# Canaries ------------------------------------------------------------------------------------------


def ensure_canary(environment: str, kid: str, *, now: datetime) -> None:
    """A canary for this KEK, made where there is none yet."""
    if KekCanary.objects.filter(kid=kid).exists():
        return
    sealed = make_canary(keys().keks, environment, kid, installation_id())
    KekCanary.objects.get_or_create(
        kid=kid,
        defaults={
            "environment": environment,
            "ciphertext": sealed.ciphertext,
            "wrapped_dek": sealed.wrapped_dek,
            "created_at": now,
        },
    )


def check_canaries(*, now: datetime) -> list[str]:
    """Open the canary of every KEK this process holds; make missing ones. Returns the kids that opened.

    Raises ``IntegrityError`` where a kid does not open its canary: the keyring belongs to another
    installation or was changed. A provider that is down is no reason not to start: what needs it is
    refused until it is back.
    """
    checked = []
    for one in keys().keks.keks():
        try:
            ensure_canary(one.environment, one.kid, now=now)
            _check_canary(one.environment, one.kid)
        except KeyServiceUnavailable as error:
            log.error("kek not available", environment=one.environment, kid=one.kid, reason=str(error))
            continue
        checked.append(one.kid)
    return checked


def _check_canary(environment: str, kid: str) -> None:
    row = KekCanary.objects.filter(kid=kid).first()
    if row is not None:
        open_canary(environment, row)


def open_canary(environment: str, row: KekCanary) -> None:
    """Raises ``IntegrityError``, with a text that is safe to show, if its KEK does not open it."""
    sealed = Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek), row.kid)
    try:
        check_canary(keys().keks, environment, row.kid, installation_id(), sealed)
    except IntegrityError as error:
        raise IntegrityError(
            f"The KEK {row.kid} of {environment} does not open its canary: the keyring is another's."
        ) from error
