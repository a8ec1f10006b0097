"""Second factors: their seeds, which are sealed, and what a change of them means for sessions."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

from allauth.mfa.models import Authenticator
from django.db import transaction
from django.db.models import F

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.envelope import IntegrityError, Sealed
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid
from keyvault.keystore import open_system, seal_system
from keyvault.models import SecondFactorSeed, User

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
    rows.delete()
    name, subject = user.get_username(), str(user.pk)
    audit.record("user:second-factor:reset", actor=actor, now=now, subject=subject, reason=reason, user=name)
