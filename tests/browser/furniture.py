"""Rows that make the console look lived in: real services, the real engine, real providers on loopback.

A ``Scene`` is a story's world with names that people would choose, and with other environments beside it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django.contrib.auth.hashers import make_password

from keyvault.actors import SYSTEM, actor_for
from keyvault.crypto.secret import Secret
from keyvault.domain import OrganisationRole, Role
from keyvault.models import Consumer, ConsumerToken, Environment, Key, Provider, Service, Team, User
from keyvault.services import catalogue, consumers, keys, people, usage
from rotation.models import RotationPolicy
from rotation.policy import Policy, Step, to_json
from rotation.services import policies
from rotation.simulators import RunningSimulator, start
from tests.stories.world import Instance, World

PASSWORD = "a long password for browsers"
MINUTE = timedelta(minutes=1)
BRISK = Policy(
    interval=timedelta(days=30),
    steps=(Step(5, MINUTE), Step(25, MINUTE), Step(50, 8 * MINUTE), Step(100, MINUTE)),
    monitor=10 * MINUTE,
    quiet=2 * MINUTE,
    cool_off=5 * MINUTE,
    deadline=timedelta(hours=3),
    window=MINUTE,
    probe_every=MINUTE,
    refresh=timedelta(seconds=10),
    min_samples=10,
)


class Scene(World):
    """One key at one simulated provider, named by its caller."""

    def __init__(
        self,
        simulator: RunningSimulator,
        settings: Any,
        *,
        service: str,
        team: Team,
        now: datetime,
        consumer: str,
        instances: int = 8,
        driver: str = "http",
        environment: str = "prod",
        policy: Policy = BRISK,
    ) -> None:
        self.now, self.simulator, self.control, self.team = now, simulator, simulator.control, team
        settings.KEYTURN_EGRESS_ALLOW = frozenset(settings.KEYTURN_EGRESS_ALLOW) | {simulator.host_port}
        self.provider = self._named_provider(driver)
        self.service = Service.objects.filter(slug=service).first() or catalogue.create_service(
            SYSTEM, slug=service, team=team, provider=self.provider, description="", now=now
        )
        self.environment = Environment.objects.get(slug=environment)
        self.policy = RotationPolicy.objects.filter(slug="brisk").first() or RotationPolicy.objects.create(
            slug="brisk", document=to_json(policy), created_at=now
        )
        self.key_id = keys.create_key(SYSTEM, self.service, self.environment, never_shown=False, now=now).id
        policies.assign_policy(SYSTEM, self.key, self.policy, now=now)
        self.consumer, self.token = self._named_consumer(consumer)
        self.instances = [Instance(f"{consumer}-{i}") for i in range(instances)]
        self.failures: Counter[str] = Counter()
        self.requests = 0
        self.rung = deque()
        self._import_first()

    def _named_provider(self, driver: str) -> Provider:
        """The preset, pointed at the simulator."""
        made = self._provider(driver, id(self))
        preset = Provider.objects.get(slug=self.control.slug)
        # The row that was made is what the driver needs; its slug and name are the preset's.
        Provider.objects.filter(pk=preset.pk).update(slug=f"{preset.slug}-{preset.pk.hex[:6]}")
        Provider.objects.filter(pk=made.pk).update(slug=self.control.slug, name=preset.name)
        return Provider.objects.get(pk=made.pk)

    def _named_consumer(self, slug: str) -> tuple[Consumer, ConsumerToken]:
        consumer = Consumer.objects.filter(slug=slug).first() or consumers.create_consumer(
            SYSTEM, slug=slug, team=self.team, now=self.now
        )
        token, _ = consumers.create_token(
            SYSTEM, consumer, self.environment, expires_at=self.now + timedelta(days=90), now=self.now
        )
        consumers.set_grant(
            SYSTEM, consumer, self.service, self.environment, verbs=["read", "report"], now=self.now
        )
        return consumer, token

    def lively(self, seconds: float) -> None:
        """Ticks with traffic until this much time has passed."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.tick(10)


@lru_cache(maxsize=1)
def _hashed() -> str:
    """Hashing is slow on purpose; once is enough for everybody here."""
    return make_password(PASSWORD)


def person(username: str, *, role: OrganisationRole = OrganisationRole.NONE) -> User:
    admin = role is OrganisationRole.ADMIN
    return User.objects.create(
        username=username, password=_hashed(), organisation_role=role, is_staff=admin, is_superuser=admin
    )


def team_with(slug: str, name: str, now: datetime, **members: Role) -> Team:
    """A team and its members; people who do not exist yet are made."""
    team = people.create_team(SYSTEM, slug=slug, name=name, now=now)
    for username, role in members.items():
        if not User.objects.filter(username=username).exists():
            person(username)
        people.set_member(SYSTEM, team, username=username, role=role, now=now)
    return team


def plain_key(
    service: Service, environment: str, secret: str, *, now: datetime, next_in: timedelta | None = None
) -> Key:
    """A key with a pasted first version, due after ``next_in``."""
    place = Environment.objects.get(slug=environment)
    key = keys.create_key(SYSTEM, service, place, never_shown=False, now=now)
    keys.import_first(SYSTEM, key, Secret(secret), now=now)
    schedule = policies.assign_policy(SYSTEM, key, None, now=now)
    if next_in is not None:
        schedule.next_rotation_at = now + next_in
        schedule.save()
    return key


@contextmanager
def simulators(*kinds: str) -> Iterator[dict[str, RunningSimulator]]:
    running = {kind: start(kind) for kind in kinds}
    try:
        yield running
    finally:
        for simulator in running.values():
            simulator.stop()


def furnish(running: dict[str, RunningSimulator], settings: Any, now: datetime) -> dict[str, Scene]:
    """A handful of services in the states that the console has to show, all of them before ``now``."""
    policies.install_all(now=now - timedelta(days=80))
    media = team_with("media", "Media", now - timedelta(days=80), lena=Role.LEAD, vito=Role.VIEWER)
    shop = team_with("shop", "Shop", now - timedelta(days=80), omar=Role.LEAD, lena=Role.LEAD)
    person("ada", role=OrganisationRole.ADMIN)
    scenes = {
        "shifting": Scene(
            running["removit"], settings, service="background-removal", team=media, consumer="render-farm",
            now=now - timedelta(minutes=12), instances=12,
        ),
        "failed": Scene(
            running["removebgvideo"], settings, service="video-cutout", team=media, consumer="clip-studio",
            now=now - timedelta(minutes=50), instances=10,
        ),
        "waiting": Scene(
            running["backgrounderase"], settings, service="product-photos", team=shop, consumer="catalogue",
            now=now - timedelta(minutes=6), instances=4, driver="manual",
        ),
        "monitoring": Scene(
            running["backgroundcut"], settings, service="cut-out-api", team=media, consumer="editor",
            now=now - timedelta(minutes=30), instances=6,
        ),
    }  # fmt: skip
    _quiet_keys(scenes, now)
    _roll_back(scenes["failed"])
    _monitor(scenes["monitoring"], now)
    waiting, shifting = scenes["waiting"], scenes["shifting"]
    waiting.start(reason="asked for by the provider")
    waiting.run(lambda: waiting.rotation.attention == "supply_key")
    shifting.lively(240)
    shifting.start(reason="quarterly")
    shifting.lively((now - shifting.now).total_seconds())
    usage.roll_up()
    return scenes


def _quiet_keys(scenes: dict[str, Scene], now: datetime) -> None:
    """The other environments, in which nothing happens right now."""
    for n, (name, environments) in enumerate(
        (("shifting", ("dev", "staging")), ("failed", ("dev", "staging")), ("waiting", ("dev",)))
    ):
        for environment in environments:
            age, due = (20, 9) if environment == "dev" else (84, 3)
            plain_key(
                scenes[name].service,
                environment,
                f"made-up-{n}-{environment}-b7Xq2Lm9",
                now=now - timedelta(days=age),
                next_in=timedelta(days=age + due, hours=n),
            )


def _roll_back(scene: Scene) -> None:
    """The provider stops honouring the new key when a quarter of the traffic uses it."""
    scene.lively(60)
    scene.start(reason="quarterly")
    scene.run(lambda: scene.rotation.weight == 25)
    scene.lively(40)
    incoming = scene.rotation.incoming
    assert incoming is not None
    scene.control.revoke(incoming.provider_key_id)
    scene.run_to("rolled_back")
    scene.lively(60)


def _monitor(scene: Scene, now: datetime) -> None:
    """Everybody has moved but one instance, which has not asked since before the rotation."""
    scene.lively(60)
    scene.instances.pop()
    scene.lively(200)
    scene.start(reason="quarterly")
    scene.run(lambda: scene.rotation.weight == 50)
    scene.verb("advance")
    scene.run_to("monitor")
    scene.lively((now - scene.now).total_seconds())


def lead() -> Any:
    return actor_for(User.objects.get(username="lena"))
