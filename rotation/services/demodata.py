"""Demo data: made-up services with keys that we issue ourselves, rotated by the real engine within minutes.

It needs no network and no provider. Everything belongs to one team whose name says so, and goes away with it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from django.db import transaction
from django.db.models import QuerySet

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.exceptions import KeyturnError
from keyvault.models import (
    Consumer,
    Delivery,
    Environment,
    Grant,
    Key,
    KeyVersion,
    LastDelivery,
    LastUse,
    OpenJobs,
    Provider,
    Service,
    Team,
    UsageBucket,
    UsageLine,
    UsageReport,
    Verification,
    VerificationBucket,
)
from keyvault.services import catalogue, consumers, people
from rotation import engine
from rotation.models import Exposure, KeySchedule, Operation, Rotation, RotationPolicy
from rotation.policy import Policy, Step, to_json
from rotation.services import starting
from rotation.services.adding import add_key

TEAM: Final = "demo-data"
POLICY: Final = "demo-data"
CONSUMER: Final = "demo-web-shop"
SERVICES: Final = {
    "demo-image-cleanup": "Made up: backgrounds of product photos",
    "demo-payments": "Made up: charges of the web shop",
    "demo-search": "Made up: the index of the web shop",
}
_SECONDS = timedelta(seconds=1)
# A whole rotation in about two minutes; without any traffic too, for nobody really uses these keys.
BRISK: Final = Policy(
    interval=timedelta(days=1),
    steps=(Step(25, 10 * _SECONDS), Step(100, 10 * _SECONDS)),
    monitor=20 * _SECONDS,
    quiet=10 * _SECONDS,
    cool_off=10 * _SECONDS,
    deadline=timedelta(hours=1),
    window=10 * _SECONDS,
    probe_every=10 * _SECONDS,
    refresh=2 * _SECONDS,
    min_samples=1,
    allow_idle=True,
)


def _refused(message: str) -> KeyturnError:
    return KeyturnError("validation_error", message)


def is_there() -> bool:
    return Team.objects.filter(slug=TEAM).exists()


@transaction.atomic
def add(actor: Actor, *, now: datetime, ring: engine.Ring | None = None) -> Rotation:
    """Make it all, and begin the first rotation; another key is due at once. Only for administrators.

    Raises ``validation_error`` where it is there already or somebody else has one of its names.
    """
    actor.demand_admin()
    if is_there():
        raise _refused("The demo data is there already.")
    team = people.create_team(actor, slug=TEAM, name="Demo data (made up)", now=now)
    document = to_json(BRISK)
    RotationPolicy.objects.get_or_create(slug=POLICY, defaults={"document": document, "created_at": now})
    consumer = consumers.create_consumer(actor, slug=CONSUMER, team=team, now=now)
    keys = [
        _key(actor, service, environment, consumer, now)
        for service in _services(actor, team, now)
        for environment in Environment.objects.all()
    ]
    audit.record("demo-data:added", actor=actor, now=now, team_id=team.id, team=TEAM)
    _due(keys[-1], now)
    _due(keys[1], now + timedelta(days=3))
    return starting.start(actor, keys[0], reason="demo data", now=now, ring=ring)


def _services(actor: Actor, team: Team, now: datetime) -> list[Service]:
    provider = Provider.objects.get(slug="internal")
    return [
        catalogue.create_service(
            actor, slug=slug, team=team, provider=provider, description=description, now=now
        )
        for slug, description in SERVICES.items()
    ]


def _key(actor: Actor, service: Service, environment: Environment, consumer: Consumer, now: datetime) -> Key:
    added = add_key(
        actor,
        service,
        environment,
        secret=mint(TokenKind.ISSUED, environment.slug),
        provider_key_id=f"generated-{uuid4().hex}",
        policy=RotationPolicy.objects.get(slug=POLICY),
        now=now,
    )
    consumers.set_grant(actor, consumer, service, environment, verbs=["read", "report"], now=now)
    return added.key


def _due(key: Key, at: datetime) -> None:
    KeySchedule.objects.filter(key=key).update(next_rotation_at=at)


@transaction.atomic
def remove(actor: Actor, *, now: datetime) -> None:
    """Take all of it away again; what the audit trail says of it stays. Only for administrators.

    Raises ``rotation_in_progress`` while one of its keys is rotated, and ``validation_error`` where somebody
    put something of their own into its team: that is never deleted.
    """
    actor.demand_admin()
    team = Team.objects.select_for_update().filter(slug=TEAM).first()
    if team is None:
        raise _refused("There is no demo data.")
    _refuse_strangers(team)
    keys = Key.objects.filter(service__team=team)
    if Rotation.objects.open().filter(key__in=keys).exists():
        raise KeyturnError(
            "rotation_in_progress",
            "A key of the demo data is being rotated. That takes about two minutes; try again then, "
            "or abort the rotation first.",
        )
    audit.record("demo-data:removed", actor=actor, now=now, team_id=team.id, team=TEAM)
    _delete_rotations(keys)
    _delete_keys(keys)
    mine = Consumer.objects.filter(team=team)
    for consumer in mine:
        consumer.tokens.all().delete()
    mine.delete()
    Service.objects.filter(team=team).delete()
    team.delete()
    RotationPolicy.objects.filter(slug=POLICY, schedules=None).delete()


def _refuse_strangers(team: Team) -> None:
    foreign = [
        *Service.objects.filter(team=team).exclude(slug__in=SERVICES).values_list("slug", flat=True),
        *Consumer.objects.filter(team=team).exclude(slug=CONSUMER).values_list("slug", flat=True),
        *team.channels.values_list("slug", flat=True),
    ]
    if foreign:
        raise _refused(f"These are not demo data but belong to its team: {', '.join(foreign[:5])}.")


def _delete_rotations(keys: QuerySet[Key]) -> None:
    rotations = Rotation.objects.filter(key__in=keys)
    Operation.objects.filter(rotation__in=rotations).delete()
    rotations.delete()


def _delete_keys(keys: QuerySet[Key]) -> None:
    """Children first: most of what tells of a key is protected against losing it."""
    versions = KeyVersion.objects.filter(key__in=keys)
    for of_version in (Verification, VerificationBucket, LastUse, OpenJobs, UsageLine):
        of_version.objects.filter(version__in=versions).delete()
    for of_key in (UsageReport, UsageBucket, Delivery, LastDelivery, Exposure):
        of_key.objects.filter(key__in=keys).delete()
    chosen = Key.objects.filter(pk__in=list(keys.values_list("pk", flat=True)))
    chosen.update(current=None, pending=None, previous=None, weight=None)
    KeyVersion.objects.filter(key__in=chosen).delete()
    Grant.objects.filter(service__keys__in=chosen).delete()
    chosen.delete()
