"""Step 4: which version answers this instance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from keyvault import integrity, jobs
from keyvault.crypto.mac import keyed_digest, lp
from keyvault.delivery.grant import Permit
from keyvault.domain import Label, Split, State, choose
from keyvault.exceptions import KeyturnError, invalid, not_found
from keyvault.keystore import keys
from keyvault.models import Key, KeyVersion

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_LABELS = frozenset(label.value for label in Label)


@dataclass(frozen=True, slots=True)
class Choice:
    """The version to answer with. ``label`` is "" for one that has none (asked for by number)."""

    version: KeyVersion
    label: str

    @property
    def etag(self) -> str:
        """Opaque: it changes with the version and its label, and tells nothing of the secret."""
        held = lp(str(self.version.id), self.label, str(self.version.withheld_at or ""))
        return f'"{keyed_digest(keys().service.etag, "etag", held)[:32]}"'


def choose_version(permit: Permit, instance: str, wanted: str | None) -> Choice:
    """The version for this instance, or the one it asks for by label or number.

    Raises ``no_active_version`` (404), ``version_gone`` (410), ``not_found`` for a number that never was,
    ``permission_denied`` without the verb ``versions``.
    """
    if wanted is None:
        return _labelled(permit.key, _label_for(permit, instance))
    if wanted not in _LABELS and not _NUMBER.fullmatch(wanted):
        raise invalid("version", "Use current, pending, previous or the number of a version.")
    permit.demand("versions")
    if wanted in _LABELS:
        return _labelled(permit.key, Label(wanted))
    return _numbered(permit.key, int(wanted))


def _label_for(permit: Permit, instance: str) -> Label:
    key = permit.key
    split = None
    if key.pending is not None:
        split = Split(key.weight or 0, bytes(key.split_salt), frozenset(key.canaries), frozenset(key.pinned))
    holds = _holds_outgoing_jobs(permit, instance)
    return choose(split, permit.caller.consumer.slug, instance, holds_outgoing_jobs=holds)


def _holds_outgoing_jobs(permit: Permit, instance: str) -> bool:
    """Whether the provider would answer 404 for this instance's running jobs under any other key."""
    key = permit.key
    provider = key.service.provider
    outgoing = key.current if key.pending is not None else key.previous
    if not provider.key_affine or outgoing is None or not _deliverable(outgoing):
        return False
    since = permit.at - timedelta(seconds=provider.max_job_age_seconds)
    return jobs.has_open_jobs(outgoing.id, permit.caller.token.consumer_id, instance, since)


def _deliverable(version: KeyVersion) -> bool:
    integrity.verify(version)
    return version.state == State.ACTIVE and version.withheld_at is None


def _no_active_version() -> KeyturnError:
    return KeyturnError("no_active_version", "This key has no active version.")


def _labelled(key: Key, label: Label) -> Choice:
    version: KeyVersion | None = getattr(key, label.value)
    if version is None or not _deliverable(version):
        raise _no_active_version()
    return Choice(version, label.value)


def _numbered(key: Key, number: int) -> Choice:
    version = key.versions.filter(number=number).first()
    if version is None:
        raise not_found()
    integrity.verify(version)
    if version.state in (State.REVOKED, State.DESTROYED):
        raise KeyturnError("version_gone", "This version no longer exists.")
    if not _deliverable(version):
        raise _no_active_version()
    held = {key.current_id: "current", key.pending_id: "pending", key.previous_id: "previous"}
    return Choice(version, held.get(version.id, ""))
