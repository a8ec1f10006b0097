"""A scanner reports what it found in the open: each text is judged, and what is ours does not stay as it was.

Consumer and user tokens are revoked. Keys that we issued and secrets of providers take the way of every
reported leak. A report may come twice, also from somebody who has caught it: the second one changes nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.crypto.mac import fingerprint_digest
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, digest, looks_like_ours, parse
from keyvault.keystore import keys
from keyvault.models import AuditEvent, ConsumerToken, KeyVersion, UserToken
from keyvault.services import consumers, people
from rotation.services import leaks, telling
from rotation.services.radius import versions_of_leak

AGAIN: Final = timedelta(days=1)  # the same finding is recorded once in this time
EVENT: Final = "leak:scanned"
_LONGEST_PLACE: Final = 200


@dataclass(frozen=True)
class Found:
    """One text as it was found. ``kind`` is the scanner's own word, ``url`` the address of the place."""

    secret: Secret
    kind: str
    url: str


@dataclass(frozen=True)
class Verdict:
    """``hash``: SHA-256 of the text, in hexadecimal. ``ours``: whether it is, or was, a secret kept here."""

    hash: str
    kind: str
    ours: bool


def report(scanner: str, found: Sequence[Found], *, now: datetime) -> list[Verdict]:
    """Judge each text and see to those that are ours; ``scanner`` is the name of the key that signed."""
    return [
        Verdict(hashlib.sha256(one.secret.expose().encode()).hexdigest(), one.kind, _judge(scanner, one, now))
        for one in found
    ]


def _judge(scanner: str, found: Found, now: datetime) -> bool:
    parsed = parse(found.secret.expose())
    place = place_of(found.url)
    if parsed is not None and parsed.kind is TokenKind.CONSUMER:
        return _consumer_token(scanner, found.secret, place, now)
    if parsed is not None and parsed.kind is TokenKind.USER:
        return _user_token(scanner, found.secret, place, now)
    return _version(scanner, found.secret, place, now)


def place_of(url: str) -> str:
    """What may be kept of an address that a stranger wrote: host and path; never a query, never a secret."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return ""
    path = "" if looks_like_ours(parts.path) else parts.path
    place = f"{host}{path}"
    if parts.scheme not in ("http", "https") or not place.isascii() or not place.isprintable():
        return ""
    return place[:_LONGEST_PLACE]


@transaction.atomic
def _consumer_token(scanner: str, secret: Secret, place: str, now: datetime) -> bool:
    rows = ConsumerToken.objects.select_for_update(of=("self",)).select_related("consumer")
    row = rows.filter(digest=digest(keys().service.pepper, secret.expose())).first()
    if row is None:
        return False
    dead = row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now)
    outcome = _outcome(dead)
    if outcome == "revoked":
        consumers.revoke_token(SYSTEM, row, now=now)
    consumer = row.consumer
    if _record(scanner, row.id, consumer.team_id, "consumer token", row.hint, outcome, place, now):
        telling.tell_leak(
            token_id=row.id,
            team_id=consumer.team_id,
            consumer=consumer.slug,
            hint=row.hint,
            outcome=outcome,
            place=place,
            now=now,
        )
    return True


@transaction.atomic
def _user_token(scanner: str, secret: Secret, place: str, now: datetime) -> bool:
    rows = UserToken.objects.select_for_update(of=("self",))
    row = rows.filter(digest=digest(keys().service.pepper, secret.expose())).first()
    if row is None:
        return False
    outcome = _outcome(row.revoked_at is not None or row.expires_at <= now)
    if outcome == "revoked":
        people.revoke_user_token(SYSTEM, row, now=now)
    if _record(scanner, row.id, None, "user token", row.hint, outcome, place, now):
        telling.tell_leak(
            token_id=row.id, team_id=None, consumer="", hint=row.hint, outcome=outcome, place=place, now=now
        )
    return True


def _version(scanner: str, secret: Secret, place: str, now: datetime) -> bool:
    """Known by what it is, whatever became of it; only what a provider may honour is a leak to act on."""
    mine = keys().service
    same = Q(fingerprint=fingerprint_digest(mine.fingerprint, secret))
    same |= Q(token_digest=digest(mine.pepper, secret.expose()))
    version = (
        KeyVersion.objects.filter(same)
        .select_related("key__service", "key__environment")
        .order_by("created_at")
        .last()
    )
    if version is None:
        return False
    held = versions_of_leak(secret).exists()
    if held and _is_news(version.id, now):
        # Before it is recorded, so that it is done once more if this process dies here.
        leaks.report(SYSTEM, secret, reason=f"a scanner found it{f' at {place}' if place else ''}", now=now)
    outcome, team_id = "reported" if held else "dead", version.key.service.team_id
    _record(scanner, version.id, team_id, "key", str(version.key), outcome, place, now)
    return True


def _outcome(dead: bool) -> str:
    if dead:
        return "dead"
    return "revoked" if settings.KEYTURN_SCANNING_REVOKES else "kept"


def _is_news(subject: uuid.UUID, now: datetime) -> bool:
    lately = AuditEvent.objects.filter(name=EVENT, subject=str(subject), at__gt=now - AGAIN)
    return not lately.exists()


@transaction.atomic
def _record(
    scanner: str,
    subject: uuid.UUID,
    team_id: uuid.UUID | None,
    what: str,
    hint: str,
    outcome: str,
    place: str,
    now: datetime,
) -> bool:
    """One event for each finding in a day; returns whether this is it."""
    audit.lock_chain()  # of two that come at once the second finds what the first has recorded
    if not _is_news(subject, now):
        return False
    audit.record(
        EVENT,
        actor=SYSTEM,
        now=now,
        team_id=team_id,
        subject=str(subject),
        scanner=scanner,
        what=what,
        hint=hint,
        outcome=outcome,
        place=place,
    )
    return True
