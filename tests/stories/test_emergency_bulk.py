"""Many keys at three providers leak: one provider does not answer, and the scheduler dies in between."""

from __future__ import annotations

import sys
import uuid
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import OrganisationRole
from keyvault.models import Environment, Key, KeyVersion, Provider, User
from keyvault.services import catalogue, keys
from rotation import operations
from rotation.models import EmergencyItem, EmergencyRun, Rotation
from rotation.services import radius, results, runs, ticking
from tests.scale import LONG
from tests.stories.world import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long]

Build = Callable[..., World]
ENVIRONMENTS = ("dev", "staging", "prod")
COUNT = 500 if LONG else 40
DIES_AFTER = 5


class SchedulerDied(BaseException):
    """The process is gone: nothing of ours catches it."""


def fill(w: World, provider: Provider, count: int) -> None:
    """Keys of this provider, spread over the environments; those of ``w.provider`` are made there."""
    for n in range(count):
        environment = Environment.objects.get(slug=ENVIRONMENTS[n % 3])
        service = catalogue.create_service(
            SYSTEM, slug=f"{provider.slug}-{n}", team=w.team, provider=provider, description="", now=w.now
        )
        key = keys.create_key(SYSTEM, service, environment, now=w.now)
        if provider.driver == "generated":
            keys.import_first(SYSTEM, key, mint(TokenKind.ISSUED, environment.slug), now=w.now)
        else:
            made = w.control.create_key(f"first-{n}")
            keys.import_first(SYSTEM, key, made.value, provider_key_id=made.id, now=w.now)


def drawn_for(actor: Actor, scope: str, name: str, now: datetime, mode: str = "replace") -> radius.Radius:
    targets, tokens, subject = radius.chosen(actor, scope, name)
    return radius.radius(actor, targets, tokens, scope=scope, subject=subject, mode=mode, now=now)


def run_all(actor: Actor, drawn: radius.Radius, now: datetime) -> EmergencyRun:
    return runs.start(actor, drawn, count=drawn.count, plan=drawn.digest, reason="leaked", now=now)


def beat(w: World, seconds: float = 10) -> None:
    w.now += timedelta(seconds=seconds)
    ticking.tick(w.now, ring=w.rung.append)
    perform_all(w)


def perform_all(w: World) -> None:
    """Each operation that was rung for, once: a broker that rings twice is no news here."""
    while w.rung:
        for operation_id in dict.fromkeys(take(w.rung)):
            operations.perform(operation_id, w.now, ring=w.rung.append)


def take(rung: deque[uuid.UUID]) -> list[uuid.UUID]:
    taken = list(rung)
    rung.clear()
    return taken


def progress(run: EmergencyRun) -> dict[str, int]:
    found = results.progress(runs.items_for(SYSTEM, run))
    return {result: n for result, n in found.items() if n}


def test_many_keys_at_three_providers_of_which_one_fails(world: Build, settings: Any, capsys: Any) -> None:
    w = world(instances=0)
    admin = actor_for(User.objects.create(username="ada", organisation_role=OrganisationRole.ADMIN))
    at_failing, at_second = max(4, COUNT // 25), COUNT * 3 // 10
    at_good, cap = COUNT - at_second - at_failing, max(8, COUNT // 8)
    good = Provider.objects.get(slug="internal")
    second = Provider.objects.create(slug="second", name="Second", driver="generated", created_at=w.now)
    for provider, n in ((good, at_good), (second, at_second), (w.provider, at_failing - 1)):
        fill(w, provider, n)  # the world's own key is one more at the last
    settings.KEYTURN_EMERGENCY_PROVIDER_CAP, settings.KEYTURN_EMERGENCY_CAP = cap, 2 * cap + 2
    w.control.set_fault(planes=["manage"], error_rate=1.0)

    drawn = drawn_for(admin, "team", w.team.slug, w.now)
    assert drawn.count == COUNT
    run = run_all(admin, drawn, w.now)
    assert not Rotation.objects.exists()

    rung: list[uuid.UUID] = []

    def ring_and_die(operation_id: uuid.UUID) -> None:
        rung.append(operation_id)
        if len(rung) == DIES_AFTER:
            raise SchedulerDied

    with pytest.raises(SchedulerDied):
        ticking.tick(w.now, ring=ring_and_die)
    after_crash = EmergencyItem.objects.filter(run=run, state="started").count()
    assert 0 < after_crash < COUNT
    assert after_crash == Rotation.objects.count(), "an item and its rotation are one transaction"
    first = EmergencyItem.objects.filter(run=run, state="started").select_related("key__environment")
    assert {item.key.environment.slug for item in first if item.key} == {"prod"}, "production first"

    most: Counter[str] = Counter()
    for _ in range(200):
        beat(w)
        for slug, n in _open_by_provider().items():
            most[slug] = max(most[slug], n)
        if set(progress(run)) <= {"done", "attention"}:
            break
    outcome = progress(run)
    assert outcome == {"done": at_good + at_second, "attention": at_failing}, outcome
    assert max(most.values()) <= django_settings.KEYTURN_EMERGENCY_PROVIDER_CAP

    w.control.clear_faults()
    runs.resume(admin, run.id, reason="it answers again", now=w.now, ring=w.rung.append)
    for _ in range(200):
        beat(w)
        if progress(run) == {"done": COUNT}:
            break
    beat(w)  # the last one closes the run
    run.refresh_from_db()
    keys_left = Key.objects.filter(current__compromised_at__isnull=False).count()
    alive = KeyVersion.objects.filter(number=1, state__in=["active", "disabled"]).count()
    rotations = Rotation.objects.count()
    with capsys.disabled():
        sys.stdout.write(
            f"\nbulk emergency: {COUNT} keys, 3 providers; {after_crash} started before the crash; "
            f"first pass {outcome}; after resume {progress(run)}; rotations {rotations}; "
            f"most in flight {dict(most)}; compromised and current {keys_left}; leaked and alive {alive}\n"
        )
    assert (run.state, progress(run)) == ("done", {"done": COUNT})
    assert (rotations, keys_left, alive) == (COUNT, 0, 0)


def _open_by_provider() -> Counter[str]:
    busy = Rotation.objects.open().filter(attention="", trigger="emergency")
    return Counter(busy.values_list("key__service__provider__slug", flat=True))
