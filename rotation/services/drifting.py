"""The nightly look for drift: its findings as rows that come and go. The only writer of findings."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.models import Provider
from rotation import breaker
from rotation.drift import Difference, Found, Look, can_look, look
from rotation.models import Finding
from rotation.services.announcing import tell_drift

Place = tuple[str, uuid.UUID | None, str]


def providers() -> list[Provider]:
    """Those that can be looked at and that somebody uses."""
    used = Provider.objects.filter(services__keys__isnull=False).distinct()
    return [provider for provider in used if can_look(provider)]


def check(provider: Provider, now: datetime) -> list[Finding]:
    """Look at one provider and write down what has appeared and what has gone. Returns what is open now."""
    breaker.begin_look(provider, now)
    try:
        seen = look(provider, now)
    finally:
        breaker.end_look(provider)
    return _write(provider, seen, now)


@transaction.atomic
def _write(provider: Provider, seen: Look, now: datetime) -> list[Finding]:
    Provider.objects.select_for_update(no_key=True).get(pk=provider.pk)  # two looks at once take turns
    known = {_place_of(row): row for row in Finding.objects.filter(provider=provider, gone_at=None)}
    found = {_place(one): one for one in seen.found}
    for place, row in known.items():
        if place in found:
            row.seen_at, row.detail = now, found[place].detail[:500]
            row.save(update_fields=["seen_at", "detail"])
        elif _is_settled(row, seen):
            row.gone_at = now
            row.save(update_fields=["gone_at"])
            _tell("drift:gone", row, now)
    for place in found.keys() - known.keys():
        row = _create(provider, found[place], now)
        _tell("drift:found", row, now)
        tell_drift(row, now)
    return list(Finding.objects.filter(provider=provider, gone_at=None))


def _is_settled(row: Finding, seen: Look) -> bool:
    """Whether this look could have seen the difference again, and did not."""
    if row.kind == Difference.UNCHECKED:
        return True
    if row.kind == Difference.UNOWNED:
        return seen.listed
    return row.version_id not in seen.unsure


def _place(found: Found) -> Place:
    return str(found.kind), found.version.id if found.version else None, found.provider_key_id


def _place_of(row: Finding) -> Place:
    return row.kind, row.version_id, row.provider_key_id


def _create(provider: Provider, found: Found, now: datetime) -> Finding:
    return Finding.objects.create(
        provider=provider,
        key=found.version.key if found.version else None,
        version=found.version,
        kind=found.kind,
        provider_key_id=found.provider_key_id,
        label=found.label,
        detail=found.detail[:500],
        found_at=now,
        seen_at=now,
    )


def _tell(name: str, row: Finding, now: datetime) -> None:
    audit.record(
        name,
        actor=SYSTEM,
        now=now,
        key=row.key,
        subject=str(row.id),
        reason=row.detail,
        provider=row.provider.slug,
        kind=row.kind,
        version=row.version.number if row.version else None,
        provider_key_id=row.provider_key_id,
    )


def check_all(slugs: Iterable[str], now: datetime) -> dict[Provider, list[Finding]]:
    """Look at the providers with these slugs, or at all of them, one after the other."""
    wanted = set(slugs)
    return {one: check(one, now) for one in providers() if not wanted or one.slug in wanted}
