"""Second factors: their seeds, which are sealed, and what a change of them means for sessions."""

from __future__ import annotations

import hmac
import json
import uuid
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

import structlog
from allauth.mfa.models import Authenticator
from django.db import transaction
from django.db.models import F

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.envelope import IntegrityError, Sealed
from keyvault.crypto.mac import row_mac
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid
from keyvault.keystore import keys, open_system, seal_system
from keyvault.models import SecondFactorSeed, User

log = structlog.get_logger("keyturn.people")

PURPOSE: Final = "totp-seed"

# What alone counts as a second factor; recovery codes stand in for one that is lost.
FACTORS: Final = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)
KINDS: Final = {
    Authenticator.Type.TOTP: "authenticator app",
    Authenticator.Type.WEBAUTHN: "passkey",
    Authenticator.Type.RECOVERY_CODES: "recovery codes",
}
_REFERENCES: Final = ("secret", "seed")  # where an authenticator's data names its seed


def keep_seed(user_id: int, seed: Secret, *, now: datetime) -> str:
    """Seal a seed; returns what is stored in its place."""
    row = SecondFactorSeed(user_id=user_id, created_at=now)
    sealed = seal_system(seed, purpose=PURPOSE, row_id=str(row.id))
    row.ciphertext, row.wrapped_dek, row.kek_kid = sealed.ciphertext, sealed.wrapped_dek, sealed.kid
    row.save(force_insert=True)
    return str(row.id)


def open_seed(user_id: int, reference: str) -> Secret:
    """The seed of this person. One of another person, or none of ours, raises ``IntegrityError``."""
    try:
        row = SecondFactorSeed.objects.filter(id=uuid.UUID(reference), user_id=user_id).first()
    except ValueError:
        row = None
    if row is None:
        raise IntegrityError
    sealed = Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek), row.kek_kid)
    return open_system(sealed, purpose=PURPOSE, row_id=str(row.id))


# The row MAC of an authenticator ----------------------------------------------------------------------

_MAC: Final = "mac"  # where it stands in the data of an authenticator
_removing: ContextVar[bool] = ContextVar("removing", default=False)


def _mac_of(row: Authenticator) -> str:
    """Over whose it is, its kind and all of its data: neither another key nor another owner fits."""
    data = {name: value for name, value in row.data.items() if name != _MAC}
    text = json.dumps(_plain(data), sort_keys=True, separators=(",", ":"))
    return row_mac(keys().service.row_mac, "authenticator", row.user_id, str(row.type), text).hex()


def _plain(value: Any) -> Any:
    """Numbers as both databases give them back: PostgreSQL makes 3.0e9 of the form into 3000000000."""
    if isinstance(value, dict):
        return {name: _plain(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sign(row: Authenticator) -> None:
    """Before the row is saved; what was read has been verified by then."""
    row.data[_MAC] = _mac_of(row)


def verify(row: Authenticator) -> None:
    """Raise ``IntegrityError`` for an authenticator that none of our writers left like this."""
    data = row.data if isinstance(row.data, dict) else {}
    if _removing.get() or hmac.compare_digest(str(data.get(_MAC, "")).encode(), _mac_of(row).encode()):
        return
    log.error("second_factor_changed", authenticator=row.pk, user=row.user_id, kind=str(row.type))
    raise IntegrityError


def has_second_factor(user: User) -> bool:
    return bool(Authenticator.objects.filter(user=user, type__in=FACTORS).exists())


@transaction.atomic
def note_change(actor: Actor, authenticator: Authenticator, *, added: bool, now: datetime) -> None:
    """An authenticator has come or gone: every session of its owner ends, and what is sealed goes with it."""
    owner = User.objects.filter(pk=authenticator.user_id)
    owner.update(session_generation=F("session_generation") + 1)
    if not added:
        references = [authenticator.data[name] for name in _REFERENCES if name in authenticator.data]
        SecondFactorSeed.objects.filter(user_id=authenticator.user_id, id__in=references).delete()
    audit.record(
        "user:second-factor:added" if added else "user:second-factor:removed",
        actor=actor,
        now=now,
        subject=str(authenticator.user_id),
        user=owner.values_list("username", flat=True).first() or "",
        kind=KINDS[authenticator.type],
    )


@transaction.atomic
def remove_all(actor: Actor, user: User, *, reason: str, now: datetime) -> None:
    """Take every second factor from somebody who lost theirs. Only an administrator, and never the own.

    Each one that goes is recorded by ``note_change`` too. Raises ``validation_error`` where there is none.
    """
    actor.demand_admin()
    if actor.user_id == user.pk:
        raise invalid("user", "Remove your own second factors on your profile page.")
    if not reason.strip():
        raise invalid("reason", "Say why.")
    rows = Authenticator.objects.filter(user=user)
    if not rows.exists():
        raise invalid("user", "This person has no second factor.")
    held = _removing.set(True)  # one that was slipped in goes with the others
    try:
        rows.delete()
    finally:
        _removing.reset(held)
    name, subject = user.get_username(), str(user.pk)
    audit.record("user:second-factor:reset", actor=actor, now=now, subject=subject, reason=reason, user=name)
