"""Step 4: which version answers this instance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from keyvault.crypto.mac import keyed_digest, lp
from keyvault.delivery.cache import Missing, View
from keyvault.delivery.grant import Permit
from keyvault.delivery.records import KeyRecord, VersionRecord
from keyvault.domain import Label, State, choose
from keyvault.exceptions import KeyturnError, invalid, not_found

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_LABELS = {label.value: label for label in Label}
# Reports that leave some jobs open change nothing that is known here but the time of the last one.
JOBS_TRUSTED: Final = timedelta(minutes=1)


@dataclass(slots=True, eq=False)
class Choice:
    """The version to answer with. ``label`` is "" for one that has none (asked for by number)."""

    version: VersionRecord
    label: str

    def etag(self, key: bytes) -> str:
        """Opaque: it changes with the version and its label, and tells nothing of the secret."""
        held = lp(self.version.id, self.label, str(self.version.withheld_at or ""))
        return f'"{keyed_digest(key, "etag", held)[:32]}"'


def choose_version(view: View, permit: Permit, instance: str, wanted: str | None) -> Choice:
    """The version for this instance, or the one it asks for by label or number.

    Raises ``quarantined`` (503), ``no_active_version`` (404), ``version_gone`` (410), ``not_found`` for a
    number that never was, ``permission_denied`` without the verb ``versions``.
    """
    view.refuse_held(permit.key)
    if wanted is None:
        return _labelled(permit.key, _label_for(view, permit, instance))
    if wanted not in _LABELS and not _NUMBER.fullmatch(wanted):
        raise invalid("version", "Use current, pending, previous or the number of a version.")
    permit.demand("versions")
    if wanted in _LABELS:
        return _labelled(permit.key, _LABELS[wanted])
    return _numbered(view, permit.key, int(wanted))


def _label_for(view: View, permit: Permit, instance: str) -> Label:
    key = permit.key
    if not key.changing:
        return Label.CURRENT
    holds = key.key_affine and _holds_outgoing_jobs(view, permit, instance)
    return choose(key.split, permit.caller.consumer, instance, holds_outgoing_jobs=holds)


def _holds_outgoing_jobs(view: View, permit: Permit, instance: str) -> bool:
    """Whether the provider would answer 404 for this instance's running jobs under any other key."""
    key = permit.key
    outgoing = key.current if key.split is not None else key.previous
    if outgoing is None or not outgoing.deliverable:
        return False
    consumer = permit.caller.token.consumer_id
    jobs = view.jobs(outgoing.id, consumer, instance)
    if jobs is None or jobs.open <= 0:
        return False
    since = view.now - timedelta(seconds=key.max_job_age_seconds)
    if jobs.last_to_at <= since and jobs.read_at < view.now - JOBS_TRUSTED:
        # They look too old to matter, but may have been reported again since this was read.
        raise Missing("jobs", (outgoing.id, consumer, instance))
    return jobs.last_to_at > since


def _no_active_version() -> KeyturnError:
    return KeyturnError("no_active_version", "This key has no active version.")


def _labelled(key: KeyRecord, label: Label) -> Choice:
    version = key.labelled(label)
    if version is None or not version.deliverable:
        raise _no_active_version()
    return Choice(version, label.value)


def _numbered(view: View, key: KeyRecord, number: int) -> Choice:
    version = view.version(key.id, number)
    if version is None:
        raise not_found()
    deliverable = version.deliverable
    if version.state in (State.REVOKED, State.DESTROYED):
        raise KeyturnError("version_gone", "This version no longer exists.")
    if not deliverable:
        raise _no_active_version()
    return Choice(version, key.label_of(number) or "")
