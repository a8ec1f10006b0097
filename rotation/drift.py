"""What a provider knows of our keys, beside what stands here. Asks drivers; changes nothing anywhere.

1. A provider that lists its keys: what should live and is not listed, what is dead here and still listed,
   and keys that nobody owns. A probe has the last word where there is one: lists come late, and some keep
   the dead.
2. One that does not: versions that should live, and those revoked within the last days, are probed.
3. No clear answer is no difference. A version in the hands of a rotation is left to that rotation.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from django.db.models import Q

from keyvault.domain import State
from keyvault.keystore import open_version
from keyvault.models import KeyVersion, Provider
from rotation import breaker, specs
from rotation.drivers import load_driver
from rotation.drivers.base import Driver, DriverError, Listed, NeedsPerson, ProbeOutcome, ProviderSpec
from rotation.facts import Kind, OperationState
from rotation.models import Operation, Rotation

RECENT = timedelta(days=7)  # for so long after its revoke a key is probed
MOST_PROBES = 1000  # of one provider in one look; the others are left for the next, by lot


class Difference(StrEnum):
    """What can differ. Nothing is ever repaired by itself."""

    MISSING = "missing"  # should live, and does not
    UNDEAD = "undead"  # should be dead, and is not
    UNOWNED = "unowned"  # the provider has a key that nobody here owns
    UNCHECKED = "unchecked"  # the provider could not be looked at


@dataclass(frozen=True)
class Found:
    """One difference; ``version`` or the provider's own id says where."""

    kind: Difference
    detail: str
    version: KeyVersion | None = None
    provider_key_id: str = ""
    label: str = ""


@dataclass
class Look:
    """What one look came to. ``unsure``: versions that nothing can be said of; ``listed``: whether the list
    of keys was read to its end."""

    found: list[Found] = field(default_factory=list)
    unsure: set[uuid.UUID] = field(default_factory=set)
    listed: bool = False


def can_look(provider: Provider) -> bool:
    """Whether there is anything to ask: not where we issue the keys ourselves, nor without list and probe."""
    if provider.driver == "generated":
        return False
    return specs.capabilities(provider).list or specs.can_probe(provider)


def look(provider: Provider, now: datetime) -> Look:
    """Look at one provider. Never raises for what the provider does."""
    seen = Look()
    versions = _versions(provider, now)
    busy = _in_rotations(provider)
    seen.unsure |= {version.id for version in versions if version.id in busy}
    versions = [version for version in versions if version.id not in busy]
    if breaker.is_open(provider, now):
        return _unchecked(seen, versions, "it did not answer several times in a row")
    driver = load_driver(provider.driver)
    able = specs.capabilities(provider)
    listed: dict[str, Listed] = {}
    if able.list:
        try:
            entries = driver.list(specs.provider_spec(provider, with_admin_secret=True))
        except DriverError as error:
            breaker.note(provider, now, reached=isinstance(error, NeedsPerson))
            return _unchecked(seen, versions, error.message)
        breaker.note(provider, now, reached=True)
        listed = {bare(entry.provider_key_id): entry for entry in entries}
        seen.listed = True
        seen.found += _unowned(provider, listed.values())
    spec = specs.provider_spec(provider, with_admin_secret=False)
    _Prober(provider, driver, spec, seen, now).compare(versions, listed)
    return seen


def bare(provider_key_id: str) -> str:
    """An id as it is compared: providers are not careful with letter case and blanks."""
    return provider_key_id.strip().casefold()


def _unchecked(seen: Look, versions: Iterable[KeyVersion], why: str) -> Look:
    seen.found.append(Found(Difference.UNCHECKED, f"could not be looked at: {why}"))
    seen.unsure |= {version.id for version in versions}
    return seen


def _versions(provider: Provider, now: datetime) -> list[KeyVersion]:
    """Those that should live, and those revoked at the provider."""
    rows = KeyVersion.objects.filter(key__service__provider=provider).filter(
        Q(state__in=(State.ACTIVE, State.DISABLED)) | Q(revoked_at__isnull=False)
    )
    return list(rows.select_related("key__service", "key__environment"))


def _in_rotations(provider: Provider) -> set[uuid.UUID]:
    unfinished = Rotation.objects.filter(key__service__provider=provider, check_at__isnull=False)
    return {
        version_id
        for rotation in unfinished.only("incoming_id", "outgoing_id")
        for version_id in (rotation.incoming_id, rotation.outgoing_id)
        if version_id is not None
    }


def _unowned(provider: Provider, listed: Iterable[Listed]) -> list[Found]:
    ids = KeyVersion.objects.filter(key__service__provider=provider).exclude(provider_key_id="")
    ours = {bare(known) for known in ids.values_list("provider_key_id", flat=True)}
    under_way = Operation.objects.filter(
        kind=Kind.ISSUE,
        state__in=(OperationState.PENDING, OperationState.RUNNING, OperationState.UNKNOWN),
        superseded=False,
        rotation__key__service__provider=provider,
    )
    expected = set(under_way.values_list("label", flat=True))
    found = []
    for entry in listed:
        if bare(entry.provider_key_id) in ours or entry.label in expected:
            continue
        made_by_us = entry.label.startswith("keyturn-")
        detail = (
            "a rotation made it, and its secret never reached us" if made_by_us else "it is not held here"
        )
        found.append(
            Found(
                Difference.UNOWNED,
                detail,
                provider_key_id=entry.provider_key_id[:200],
                label=entry.label[:200],
            )
        )
    return found


@dataclass
class _Prober:
    provider: Provider
    driver: Driver
    spec: ProviderSpec
    seen: Look
    now: datetime
    probes: int = 0

    def compare(self, versions: list[KeyVersion], listed: dict[str, Listed]) -> None:
        for version in random.sample(versions, len(versions)):
            there: bool | None = None
            if self.seen.listed and version.provider_key_id:
                there = bare(version.provider_key_id) in listed
            lives = version.state in (State.ACTIVE, State.DISABLED)
            found = self._lost(version, there) if lives else self._undead(version, there)
            if found is None:
                self.seen.unsure.add(version.id)
            elif found:
                self.seen.found.append(found)

    def _lost(self, version: KeyVersion, there: bool | None) -> Found | Literal[False] | None:
        """A difference, False for none, None where nothing can be said."""
        if there:
            return False
        honoured = self._ask(version) if version.state == State.ACTIVE else None
        if honoured is not None:
            return not honoured and self._differs(Difference.MISSING, "the provider refuses it", version)
        if there is None or (version.state == State.ACTIVE and self.spec.probe is not None):
            return None
        return self._differs(Difference.MISSING, "the provider does not list it any more", version)

    def _undead(self, version: KeyVersion, there: bool | None) -> Found | Literal[False] | None:
        recent = version.revoked_at is not None and self.now - version.revoked_at < RECENT
        if there is False or (there is None and not recent):
            return False
        honoured = self._ask(version)
        if honoured is not None:
            return honoured and self._differs(Difference.UNDEAD, "the provider still honours it", version)
        if there is None or (self.spec.probe is not None and version.ciphertext is not None):
            return None
        return self._differs(Difference.UNDEAD, "the provider still lists it", version)

    @staticmethod
    def _differs(kind: Difference, detail: str, version: KeyVersion) -> Found:
        return Found(kind, detail, version, version.provider_key_id)

    def _ask(self, version: KeyVersion) -> bool | None:
        """Whether the provider honours this version now; None where that cannot be told."""
        if self.spec.probe is None or version.ciphertext is None or self.probes >= MOST_PROBES:
            return None
        if breaker.is_open(self.provider, self.now):
            return None
        self.probes += 1
        result = self.driver.probe(self.spec, open_version(version))
        breaker.note(self.provider, self.now, reached=result.outcome is not ProbeOutcome.UNREACHABLE)
        return {ProbeOutcome.ACCEPTED: True, ProbeOutcome.REJECTED: False}.get(result.outcome)
