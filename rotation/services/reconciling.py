"""Putting a restored database right, so that nothing which had ended comes back to life.

1. The journal says what ended since the backup: tokens, grants, people, versions. It ends again.
2. A key that got another value since is held back by itself: its value is lost, or the one here may be dead.
3. Providers are asked about the keys that stand here. What one refuses has ended; what it honours is
released.
4. Everything else is delivered again; rotations go on when a person resumes them.

Each step may be repeated, and may be interrupted anywhere: until the last one nothing is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from django.db import transaction

from keyvault import audit
from keyvault.actors import SYSTEM, Actor
from keyvault.crypto.secret import Secret
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.keystore import open_version
from keyvault.models import Consumer, ConsumerToken, Grant, Key, KeyVersion, User, UserToken
from keyvault.services import checkpoints, consumers, keys, people, quarantine
from rotation import specs
from rotation.drift import Difference, can_look
from rotation.drivers import load_driver
from rotation.drivers.base import ProbeOutcome
from rotation.services import anchoring, drifting, journal
from rotation.services.journal import Line

_LIVING: Final = (State.ACTIVE, State.DISABLED)
_LOST_VALUE: Final = "it got another value after the backup"


@dataclass
class Reconciled:
    """What was done. ``ended``: what ended again; ``held``: keys that wait for a person, with the reason;
    ``look``: what a person has to look at again; ``until``: when the last event of the journal was."""

    ended: list[str] = field(default_factory=list)
    held: list[tuple[str, str]] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    until: str = ""
    complete: bool = True


def reconcile(actor: Actor, *, now: datetime, without_journal: bool = False) -> Reconciled:
    """End what had ended, hold what is unknown, ask the providers, and deliver the rest again.

    ``without_journal``: although the journal does not reach back to the backup. Then every user token ends,
    and every key that no provider vouches for is held. Raises ``invalid_transition`` where there is nothing
    to do.
    """
    actor.demand_admin()
    row = quarantine.everything()
    if row is None:
        raise KeyturnError("invalid_transition", "Nothing is in quarantine.")
    lost = journal.lost_since(row.sequence)
    if not lost.complete and not without_journal:
        raise KeyturnError(
            "invalid_transition",
            f"{journal.file()} does not reach back to this backup (event {row.sequence}), so what was "
            f"revoked "
            "since is not known. Put that file of the scheduler's host there, or go on --without-journal: "
            "then "
            "every user token ends, and every key is held until its provider or you say that it is right.",
        )
    done = Reconciled(until=lost.lines[-1].at if lost.lines else "", complete=lost.complete)
    for line in lost.lines:
        _apply(line, row.sequence, done, now)
    if not lost.complete:
        _distrust(row.sequence, done, now)
    _ask_providers(row.sequence, done, now)
    held = quarantine.held_keys()
    done.held = [(str(one.key), one.reason) for one in held]
    with transaction.atomic():
        quarantine.release_everything()
        audit.record(
            "database:reconciled",
            actor=actor,
            now=now,
            applied=len(done.ended),
            held=len(held),
            journal=lost.complete,
        )
    # What earlier checkpoints say of later events no longer holds: somebody has looked.
    anchoring.write(checkpoints.here(now, restored_to=row.sequence))
    return done


def keep(actor: Actor, key: Key, *, now: datetime) -> None:
    """A person vouches for the value that stands here: it is delivered again."""
    actor.demand_admin()
    with transaction.atomic():
        keys.lock_key(key.id)
        quarantine.release(key)
        audit.record(
            "database:reconciled", actor=actor, now=now, key=key, subject=str(key.id), applied=0, held=0
        )


def supply(actor: Actor, key: Key, secret: Secret, *, now: datetime) -> KeyVersion:
    """A person gives the value that this key has now; what stands here has ended. It is delivered again."""
    actor.demand_admin()
    with transaction.atomic():
        locked = keys.lock_key(key.id)
        if locked.current is not None:
            keys.mark_revoked(actor, locked, locked.current, now=now)
        version = keys.import_first(actor, locked, secret, now=now)
        quarantine.release(key)
    return version


# The journal ---------------------------------------------------------------------------------------


def _apply(line: Line, sequence: int, done: Reconciled, now: datetime) -> None:
    if line.name in journal.PEOPLE:
        done.look.append(f"{line.name} {line.details.get('user', '')} at {line.at}".replace("  ", " "))
        return
    with transaction.atomic():
        if line.name in journal.VALUES:
            _hold(line, sequence, now)
            return
        told = _ENDERS[line.name](line, sequence, now)
    if told:
        done.ended.append(told)


def _key_of(line: Line) -> Key | None:
    found = Key.objects.named(line.service, line.environment).first()
    return None if found is None else keys.lock_key(found.id)


def _hold(line: Line, sequence: int, now: datetime) -> None:
    key = _key_of(line)
    if key is not None:
        quarantine.hold(key, _LOST_VALUE, sequence=sequence, now=now)


def _end_version(line: Line, sequence: int, now: datetime) -> str:
    """A version ends here as it ended then; one that a disabled key has may be enabled again by a person."""
    key = _key_of(line)
    version = None if key is None else key.versions.filter(number=line.details["version"]).first()
    if key is None or version is None or version.state not in _LIVING:
        return ""
    if line.name == "key:version:compromised":
        keys.mark_compromised(SYSTEM, key, version, reason="it was before the restore", now=now)
    elif line.name == "key:version:disabled":
        if version.state == State.DISABLED:
            return ""
        keys.mark_disabled(SYSTEM, key, version, now=now)
    else:
        _revoke(key, version, "its version was revoked after the backup", sequence, now)
    return f"{key} v{version.number}: {line.name.rpartition(':')[2]}"


def _revoke(key: Key, version: KeyVersion, why: str, sequence: int, now: datetime) -> None:
    if key.current_id == version.id:
        quarantine.hold(key, why, sequence=sequence, now=now)
    keys.mark_revoked(SYSTEM, key, version, now=now)


def _end_consumer_token(line: Line, sequence: int, now: datetime) -> str:
    tokens = ConsumerToken.objects.filter(revoked_at__isnull=True)
    if line.name == "consumer:token:rotated":
        # Its successor is lost, and how much of its grace was left is not known.
        tokens = tokens.filter(consumer__slug=line.details["consumer"], hint=line.details["replaced_hint"])
    else:
        tokens = tokens.filter(pk=line.subject)
    ended = [f"token {token.hint} of {token.consumer.slug}: revoked" for token in _revoked(tokens, now)]
    return ", ".join(ended)


def _revoked(tokens: object, now: datetime) -> list[ConsumerToken]:
    found = list(tokens.select_related("consumer"))  # type: ignore[attr-defined]
    for token in found:
        consumers.revoke_token(SYSTEM, token, now=now)
    return found


def _end_user_token(line: Line, sequence: int, now: datetime) -> str:
    token = UserToken.objects.filter(pk=line.subject, revoked_at__isnull=True).first()
    if token is None:
        return ""
    people.revoke_user_token(SYSTEM, token, now=now)
    return f"user token {token.hint}: revoked"


def _shut_out(line: Line, sequence: int, now: datetime) -> str:
    user = User.objects.filter(username=line.details["user"], is_active=True).first()
    if user is None:
        return ""
    people.set_active(SYSTEM, user, active=False, now=now)
    return f"{user.get_username()}: shut out"


def _change_grant(line: Line, sequence: int, now: datetime) -> str:
    service, _, environment = line.subject.partition("/")
    consumer = Consumer.objects.filter(slug=line.details["consumer"]).first()
    grant = Grant.objects.filter(
        consumer=consumer, service__slug=service, environment__slug=environment
    ).first()
    if consumer is None or grant is None:
        return ""
    if line.name == "grant:removed":
        consumers.remove_grant(SYSTEM, grant, now=now)
        return f"{consumer.slug}: no grant on {line.subject}"
    left = [verb for verb in grant.verbs if verb in line.details["verbs"]]
    if left == grant.verbs:
        return ""
    if not left:
        consumers.remove_grant(SYSTEM, grant, now=now)
    else:
        consumers.set_grant(SYSTEM, consumer, grant.service, grant.environment, verbs=left, now=now)
    return f"{consumer.slug}: {', '.join(left) or 'nothing'} on {line.subject}"


_ENDERS: Final[dict[str, Callable[[Line, int, datetime], str]]] = {
    "consumer:token:revoked": _end_consumer_token,
    "consumer:token:rotated": _end_consumer_token,
    "user:token:revoked": _end_user_token,
    "user:deactivated": _shut_out,
    "grant:changed": _change_grant,
    "grant:removed": _change_grant,
    "key:version:compromised": _end_version,
    "key:version:destroyed": _end_version,
    "key:version:disabled": _end_version,
    "key:version:revoked": _end_version,
}


# Without a journal, and with the providers ---------------------------------------------------------


def _distrust(sequence: int, done: Reconciled, now: datetime) -> None:
    tokens = list(UserToken.objects.filter(revoked_at__isnull=True))
    for token in tokens:
        with transaction.atomic():
            people.revoke_user_token(SYSTEM, token, now=now)
    done.ended += [f"user token {token.hint}: revoked" for token in tokens]
    for key in Key.objects.filter(current__isnull=False):
        quarantine.hold(key, "what became of it after the backup is not known", sequence=sequence, now=now)
    done.look.append("tokens of consumers, grants and people: what ended after the backup is not known")


def _ask_providers(sequence: int, done: Reconciled, now: datetime) -> None:
    """What a provider refuses has ended. A key that is held and honoured is as it was: it is released."""
    for findings in drifting.check_all([], now).values():
        for finding in findings:
            if finding.kind == Difference.MISSING and finding.version is not None:
                _end_at_provider(finding.version, sequence, done, now)
    for row in quarantine.held_keys():
        if row.key is not None:
            _probe(row.key, sequence, done, now)


def _probe(key: Key, sequence: int, done: Reconciled, now: datetime) -> None:
    provider = key.service.provider
    version = key.current
    if version is None or version.state != State.ACTIVE:
        return
    if not (can_look(provider) and specs.can_probe(provider)):
        return  # where we issue the keys ourselves nobody else knows
    spec = specs.provider_spec(provider, with_admin_secret=False)
    outcome = load_driver(provider.driver).probe(spec, open_version(version)).outcome
    if outcome is ProbeOutcome.ACCEPTED:
        quarantine.release(key)
    elif outcome is ProbeOutcome.REJECTED:
        _end_at_provider(version, sequence, done, now)


def _end_at_provider(version: KeyVersion, sequence: int, done: Reconciled, now: datetime) -> None:
    with transaction.atomic():
        key = keys.lock_key(version.key_id)
        row = key.versions.get(pk=version.pk)
        if row.state not in _LIVING:
            return
        _revoke(key, row, "its provider refuses the value that stands here", sequence, now)
    done.ended.append(f"{key} v{row.number}: refused by {key.service.provider.slug}")


def without_value() -> Collection[Key]:
    """The keys that are held back, for a person to give the value of, or to vouch for."""
    return [row.key for row in quarantine.held_keys() if row.key is not None]
