"""Answers kept for requests that carry an Idempotency-Key, so that a second try does nothing twice.

1. ``claim`` commits a row without an answer: a twin sees that somebody is at work.
2. The effect and ``keep`` commit together, so there is never an effect without its answer.
3. ``release`` gives the claim back when there is no answer worth keeping; one whose owner died is taken
   over after ``LEASE``. The owner that comes too late finds its claim gone and rolls back.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyvault.crypto.envelope import Sealed
from keyvault.crypto.mac import keyed_digest, lp
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.keystore import keys, open_system, seal_system
from keyvault.models import IdempotentReply

KEPT = timedelta(hours=24)
LEASE = timedelta(seconds=60)
PURPOSE = "idempotent-reply"


@dataclass(frozen=True)
class Claim:
    """The right to answer; ``since`` tells the present owner from an earlier one."""

    row_id: uuid.UUID
    since: datetime


@dataclass(frozen=True)
class Reply:
    """A kept answer; ``document`` is the text that ``keep`` was given."""

    status: int
    document: Secret


def request_digest(*parts: bytes | str) -> str:
    """What stands for a request: keyed, because bodies hold secrets."""
    return keyed_digest(keys().service.fingerprint, "idempotent-request", lp(*parts))


def _in_flight() -> KeyturnError:
    return KeyturnError("idempotency_in_flight", "A request with this key is still being worked on.")


def claim(caller: str, key: str, digest: str, *, now: datetime) -> Claim | Reply:
    """Begin the work under this key, or return the answer that was kept.

    Raises ``idempotency_mismatch`` (the key came with another request before) and
    ``idempotency_in_flight``. Call it outside a transaction, so that twins see the claim.
    """
    row, created = IdempotentReply.objects.get_or_create(
        caller=caller, idempotency_key=key, defaults={"request_digest": digest, "created_at": now}
    )
    if created:
        return Claim(row.id, now)
    if row.created_at <= now - KEPT:
        return _take_over(row, digest, now)
    if row.request_digest != digest:
        raise KeyturnError("idempotency_mismatch", "This idempotency key was used with another request.")
    if row.status is None:
        if row.created_at > now - LEASE:
            raise _in_flight()
        return _take_over(row, digest, now)
    if row.ciphertext is None or row.wrapped_dek is None:
        raise _in_flight()
    sealed = Sealed(bytes(row.ciphertext), bytes(row.wrapped_dek), row.kek_kid)
    return Reply(row.status, open_system(sealed, purpose=PURPOSE, row_id=str(row.id)))


def _take_over(row: IdempotentReply, digest: str, now: datetime) -> Claim:
    taken = IdempotentReply.objects.filter(pk=row.pk, created_at=row.created_at, status=row.status).update(
        status=None, ciphertext=None, wrapped_dek=None, kek_kid="", request_digest=digest, created_at=now
    )
    if not taken:
        raise _in_flight()
    return Claim(row.id, now)


def keep(held: Claim, status: int, document: Secret) -> None:
    """Store the answer. Call it in the transaction of the effect; raises where the claim was taken over."""
    sealed = seal_system(document, purpose=PURPOSE, row_id=str(held.row_id))
    kept = IdempotentReply.objects.filter(pk=held.row_id, created_at=held.since, status=None).update(
        status=status, ciphertext=sealed.ciphertext, wrapped_dek=sealed.wrapped_dek, kek_kid=sealed.kid
    )
    if not kept:
        raise _in_flight()


def release(held: Claim) -> None:
    """Nothing happened and nothing is kept: the same key may be used again at once."""
    IdempotentReply.objects.filter(pk=held.row_id, created_at=held.since, status=None).delete()


def forget_expired(*, now: datetime) -> int:
    """Remove answers older than a day; returns how many."""
    return IdempotentReply.objects.filter(created_at__lte=now - KEPT).delete()[0]
