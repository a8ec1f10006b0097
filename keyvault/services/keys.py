"""Keys, their versions and their labels.

Functions that take a ``Key`` under change expect it from ``lock_key``, inside the caller's transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.mac import fingerprint_digest
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.domain import State, may_become
from keyvault.exceptions import KeyturnError, invalid
from keyvault.integrity import sign, verify
from keyvault.keystore import keys, open_version, seal_version
from keyvault.models import Environment, Key, KeyVersion, Service
from keyvault.prepared import prepared
from keyvault.upsert import insert, update

DEFAULT_REFRESH_SECONDS = 300


@prepared
def _locked(key_id: uuid.UUID) -> QuerySet[Key, uuid.UUID]:
    return Key.objects.select_for_update().order_by().filter(pk=key_id).values_list("pk", flat=True)


@prepared
def _with_labels(key_id: uuid.UUID) -> QuerySet[Key]:
    rows = Key.objects.select_related(
        "service__provider", "service__team", "environment", "current", "pending", "previous"
    )
    return rows.order_by().filter(pk=key_id)


def lock_key(key_id: uuid.UUID) -> Key:
    """The key, locked, with its labels. Raises ``IntegrityError`` where the row was tampered with."""
    # Two queries: PostgreSQL gives rows joined to the locked one as they were before the wait for the
    # lock, so that a label would be the version of a moment ago, or none at all.
    if _locked.first(key_id) is None:
        raise Key.DoesNotExist
    (key,) = _with_labels(key_id)
    verify(key)
    return key


def _save(key: Key) -> None:
    sign(key)
    update(key)


def _refuse_held_secret(key: Key, mark: str) -> None:
    """The same secret must not serve two environments, nor come back as a 'new' version of its key."""
    held = KeyVersion.objects.filter(fingerprint=mark).select_related("key__environment")
    for version in held:
        if version.key_id == key.id:
            raise KeyturnError(
                "validation_error",
                "This secret is not new.",
                fields={"secret": [f"This key already holds this secret as version {version.number}."]},
                extra={"reason": "already_held"},
            )
        if version.key.environment_id != key.environment_id:
            raise KeyturnError(
                "validation_error",
                "This secret belongs to another environment.",
                fields={
                    "secret": [
                        "This secret is already held under another environment. Use one key per environment."
                    ]
                },
                extra={"reason": "other_environment"},
            )


@transaction.atomic
def create_key(
    actor: Actor,
    service: Service,
    environment: Environment,
    *,
    never_shown: bool | None = None,
    now: datetime,
) -> Key:
    """A key without a version yet. ``never_shown``: by default as the environment is protected."""
    actor.demand("manage", service.team_id)
    if Key.objects.filter(service=service, environment=environment).exists():
        raise invalid("environment", f"{service.slug} has a key in {environment.slug} already.")
    key = Key(
        service=service,
        environment=environment,
        created_at=now,
        refresh_seconds=DEFAULT_REFRESH_SECONDS,
        never_shown=environment.protected if never_shown is None else never_shown,
    )
    sign(key)
    insert(key)
    audit.record("key:created", actor=actor, now=now, key=key, subject=str(key.id))
    return key


@transaction.atomic
def import_first(
    actor: Actor,
    key: Key,
    secret: Secret,
    *,
    provider_key_id: str = "",
    expires_at: datetime | None = None,
    now: datetime,
) -> KeyVersion:
    """The first version of a key, from a secret that a person already has. It is current at once.

    ``provider_key_id`` is what the provider calls it; without it only a person can revoke it later.
    ``expires_at``: when the provider lets it expire.
    """
    key = lock_key(key.id)
    actor.demand("manage", key.service.team_id)
    if key.current is not None:
        raise invalid("secret", "This key has a version already. Start a rotation to replace it.")
    version = request_version(actor, key, now=now)
    fill_version(
        actor, key, version, secret,
        provider_key_id=provider_key_id, imported=True, expires_at=expires_at, now=now,
    )  # fmt: skip
    key.current = version
    _save(key)
    audit.record("key:promoted", actor=actor, now=now, key=key, version=version.number, previous=None)
    return version


def request_version(actor: Actor, key: Key, *, now: datetime) -> KeyVersion:
    """The next version of a locked key: numbered, without a secret yet."""
    last = key.versions.order_by("-number").values_list("number", flat=True).first()
    version = KeyVersion(key=key, number=(last or 0) + 1, state=State.REQUESTED, created_at=now)
    sign(version)
    version.save(force_insert=True)
    audit.record(
        "key:version:requested",
        actor=actor,
        now=now,
        key=key,
        subject=str(version.id),
        version=version.number,
    )
    return version


def fill_version(
    actor: Actor,
    key: Key,
    version: KeyVersion,
    secret: Secret,
    *,
    provider_key_id: str,
    imported: bool,
    expires_at: datetime | None = None,
    now: datetime,
) -> None:
    """Seal the secret into a requested version; the provider honours it from now on.

    Raises ``validation_error`` (``extra.reason`` is ``already_held`` or ``other_environment``) where we
    hold this secret already. ``expires_at``: when the provider lets it expire.
    """
    _refuse_past(expires_at, now)
    # The audit event below takes this lock anyway. Taking it here makes the look-up safe against a twin;
    # a lock of its own would be taken before that one here and after it elsewhere.
    audit.lock_chain()
    mark = fingerprint_digest(keys().service.fingerprint, secret)
    _refuse_held_secret(key, mark)
    version.key = key
    seal_version(version, secret)
    version.fingerprint = mark
    parsed = parse(secret.expose())
    if parsed is not None and parsed.kind is TokenKind.ISSUED:
        version.token_digest = digest(keys().service.pepper, secret.expose())
    version.provider_key_id, version.expires_at = provider_key_id, expires_at
    version.activated_at = now
    name = "key:version:imported" if imported else "key:version:issued"
    _move(version, State.ACTIVE)
    audit.record(
        name,
        actor=actor,
        now=now,
        key=key,
        subject=str(version.id),
        version=version.number,
        fingerprint=version.short_fingerprint,
    )


def _refuse_past(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise invalid("expires_at", "The expiry lies in the past.")


def set_expiry(
    actor: Actor, key: Key, version: KeyVersion, expires_at: datetime | None, *, now: datetime
) -> None:
    """When the provider lets this version expire, as a person says; None: it does not, or nobody knows."""
    _refuse_past(expires_at, now)
    version.key, version.expires_at = key, expires_at
    sign(version)
    version.save()
    audit.record(
        "key:version:expiry",
        actor=actor,
        now=now,
        key=key,
        subject=str(version.id),
        version=version.number,
        expires_at=expires_at.isoformat() if expires_at is not None else None,
    )


def _move(version: KeyVersion, state: State) -> None:
    old = State(version.state)
    if not may_become(old, state):
        raise KeyturnError(
            "invalid_transition", f"A version cannot go from {old} to {state}.", extra={"state": old.value}
        )
    version.state = state
    sign(version)
    version.save()


def offer(
    actor: Actor,
    key: Key,
    version: KeyVersion,
    *,
    salt: bytes,
    canaries: Collection[str],
    pinned: Collection[str],
    refresh_seconds: int,
    now: datetime,
) -> None:
    """Label a version ``pending`` at weight 0: those who ask for it by label may read it."""
    if key.pending is not None or key.previous is not None:
        raise KeyturnError("invalid_transition", "Another version is being replaced on this key.")
    key.pending, key.weight, key.split_salt = version, 0, salt
    key.canaries, key.pinned, key.refresh_seconds = sorted(canaries), sorted(pinned), refresh_seconds
    _save(key)
    audit.record("key:version:offered", actor=actor, now=now, key=key, version=version.number)


def set_weight(actor: Actor, key: Key, weight: int, *, now: datetime) -> None:
    """Share of instances (0-100) given the pending version. It may only rise; ``roll_back`` takes it away."""
    if key.pending is None or key.weight is None or not key.weight <= weight <= 100:
        raise KeyturnError("invalid_transition", "The weight of a pending version only rises, up to 100.")
    key.weight = weight
    _save(key)
    audit.record("key:weight:set", actor=actor, now=now, key=key, version=key.pending.number, weight=weight)


def promote(actor: Actor, key: Key, *, now: datetime) -> None:
    """Labels move: pending becomes current, current becomes previous."""
    if key.pending is None:
        raise KeyturnError("invalid_transition", "No version is pending.")
    outgoing: KeyVersion | None = key.current
    key.current, key.previous, key.pending, key.weight = key.pending, outgoing, None, None
    _save(key)
    audit.record(
        "key:promoted",
        actor=actor,
        now=now,
        key=key,
        version=key.current.number,
        previous=outgoing.number if outgoing is not None else None,
    )


def roll_back(
    actor: Actor, key: Key, incoming: KeyVersion, *, outgoing: KeyVersion | None, now: datetime
) -> None:
    """The outgoing version is current again; the incoming one is withheld from delivery at once."""
    if outgoing is None or outgoing.state != State.ACTIVE:
        raise KeyturnError("invalid_transition", "There is no working version to go back to.")
    key.current, key.pending, key.previous, key.weight = outgoing, None, None, None
    _save(key)
    withhold(incoming, now=now)
    audit.record(
        "key:rolled-back", actor=actor, now=now, key=key, version=outgoing.number, withheld=incoming.number
    )


def withhold(version: KeyVersion, *, now: datetime) -> None:
    """Nobody is given this version from now on, whatever the provider says of it."""
    if version.withheld_at is None:
        version.withheld_at = now
        sign(version)
        version.save()


def retire_previous(actor: Actor, key: Key, *, now: datetime) -> None:
    """The outgoing version loses its label: it is never delivered again."""
    if key.previous is None:
        return
    number, key.previous = key.previous.number, None
    key.refresh_seconds = DEFAULT_REFRESH_SECONDS
    _save(key)
    audit.record("key:previous:retired", actor=actor, now=now, key=key, version=number)


def _dated(actor: Actor, key: Key, version: KeyVersion, state: State, event: str, now: datetime) -> None:
    version.key = key
    _move(version, state)
    audit.record(event, actor=actor, now=now, key=key, subject=str(version.id), version=version.number)


def mark_disabled(actor: Actor, key: Key, version: KeyVersion, *, now: datetime) -> None:
    version.disabled_at = now
    _dated(actor, key, version, State.DISABLED, "key:version:disabled", now)


def mark_enabled(actor: Actor, key: Key, version: KeyVersion, *, now: datetime) -> None:
    version.disabled_at = None
    _dated(actor, key, version, State.ACTIVE, "key:version:enabled", now)


def mark_revoked(actor: Actor, key: Key, version: KeyVersion, *, now: datetime) -> None:
    """The provider refuses this version from now on. It loses whatever label it has."""
    version.revoked_at = now
    _dated(actor, key, version, State.REVOKED, "key:version:revoked", now)
    if key.previous_id == version.id:
        retire_previous(actor, key, now=now)
    elif key.current_id == version.id:
        key.current = None
        _save(key)


def mark_destroyed(actor: Actor, key: Key, version: KeyVersion, *, now: datetime) -> None:
    """Erase our ciphertext; the row stays."""
    version.destroyed_at = now
    version.ciphertext, version.wrapped_dek, version.kek_kid = None, None, ""
    _dated(actor, key, version, State.DESTROYED, "key:version:destroyed", now)


def mark_compromised(actor: Actor, key: Key, version: KeyVersion, *, reason: str, now: datetime) -> None:
    """Record that the secret is known to others; a fact beside the state."""
    if version.compromised_at is not None:
        return
    version.compromised_at = now
    sign(version)
    version.save()
    audit.record(
        "key:version:compromised", actor=actor, now=now, key=key, reason=reason, version=version.number
    )


@transaction.atomic
def set_never_shown(actor: Actor, key: Key, *, never_shown: bool, now: datetime) -> Key:
    """Whether people may reveal this key in the console."""
    key = lock_key(key.id)
    actor.demand("manage", key.service.team_id)
    key.never_shown = never_shown
    _save(key)
    audit.record("key:changed", actor=actor, now=now, key=key, fields=["never_shown"])
    return key


def reveal(actor: Actor, key: Key, *, reason: str, now: datetime) -> tuple[KeyVersion, Secret]:
    """The current secret, for a person who re-authenticated; its audit event commits before that."""
    with transaction.atomic():
        key = lock_key(key.id)
        actor.demand("manage", key.service.team_id)
        if key.never_shown:
            raise KeyturnError("permission_denied", "This key is marked as never shown to people.")
        version = key.current
        if version is None:
            raise KeyturnError("no_active_version", "This key has no active version.")
        verify(version)
        audit.record("key:revealed", actor=actor, now=now, key=key, reason=reason, version=version.number)
    version.key = key
    return version, open_version(version)
