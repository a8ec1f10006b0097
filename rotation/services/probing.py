"""Trying a provider out: one request that shows what its probe is worth. No lock, no transaction."""

from __future__ import annotations

import secrets
import string
from datetime import datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError, denied
from keyvault.keystore import open_version
from keyvault.limits import Window, limiter, subject
from keyvault.models import Key, Provider
from rotation import specs
from rotation.drivers import load_driver
from rotation.drivers.base import ProbeOutcome, ProbeResult

PER_MINUTE = 6  # tries of one provider, by whomever
MADE_UP = 40  # characters


def may_test(actor: Actor, provider: Provider) -> bool:
    """Those who operate something there, and administrators."""
    if actor.is_admin:
        return True
    teams = provider.services.values_list("team_id", flat=True).distinct()
    return any(actor.may("operate", team) for team in teams)


def try_provider(actor: Actor, provider: Provider, key: Key | None, *, now: datetime) -> ProbeResult:
    """Send the provider's probe, with a made-up key or with the current version of one of its keys.

    It is recorded before anything leaves. Raises ``rate_limited`` after ``PER_MINUTE`` tries in a minute,
    ``invalid_transition`` where there is nothing to send.
    """
    if not may_test(actor, provider):
        raise denied("This needs the role operator in a team that uses this provider.")
    if key is not None:
        actor.demand("operate", key.service.team_id)
    if not specs.can_probe(provider):
        raise KeyturnError("invalid_transition", "This provider has no probe.")
    version = key.current if key is not None else None
    if key is not None and version is None:
        raise KeyturnError("invalid_transition", "This key has no current version.")
    _count(provider, now)
    with transaction.atomic():
        number = version.number if version is not None else None
        audit.record("provider:tested", actor=actor, now=now, key=key, provider=provider.slug, version=number)
    secret = open_version(version) if version is not None else _made_up()
    spec = specs.provider_spec(provider, with_admin_secret=False)
    return load_driver(provider.driver).probe(spec, secret)


def _count(provider: Provider, now: datetime) -> None:
    window = Window.at(PER_MINUTE, limiter().hit(subject(f"provider-test:{provider.id}"), now), now)
    if window.exceeded:
        raise KeyturnError(
            "rate_limited", f"This provider was tried {PER_MINUTE} times. Wait {window.reset} seconds."
        )


def _made_up() -> Secret:
    """A key that nobody has: no provider may honour it."""
    letters = string.ascii_letters + string.digits
    return Secret("".join(secrets.choice(letters) for _ in range(MADE_UP)))


def meaning(result: ProbeResult, *, real: bool) -> tuple[str, str]:
    """What the outcome means for this provider, and its tone: good, warn or bad."""
    outcome = result.outcome
    if outcome is ProbeOutcome.ACCEPTED:
        if real:
            return "The provider honours this key.", "good"
        return "The probe accepts a key that nobody has, so it proves nothing. Probe another path.", "bad"
    if outcome is ProbeOutcome.REJECTED:
        if real:
            return "The provider refuses this key.", "bad"
        return "A key that nobody has is refused, as it must be.", "good"
    return _NO_VERDICT[outcome], "warn" if outcome is not ProbeOutcome.MISSING else "bad"


_NO_VERDICT = {
    ProbeOutcome.MISSING: "The provider saw no key at all: look at the header and the scheme.",
    ProbeOutcome.FORBIDDEN: "The account may not do this, whatever the key: look at the plan.",
    ProbeOutcome.RATE_LIMITED: "The provider asks to wait. This says nothing about the key.",
    ProbeOutcome.UNREACHABLE: "The provider could not be reached. This says nothing about the key.",
    ProbeOutcome.INCONCLUSIVE: "The answer proves nothing about the key.",
}
