"""A world for stories: a fake clock, the real services and engine, and a real provider on loopback.

Nothing here decides anything. ``World.tick`` does what the beat and the workers do; ``World.traffic`` does
what consumers do: ask for the key, call the provider with it, report what happened.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from django.db.models import QuerySet

from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.delivery.records import as_uuid
from keyvault.keystore import open_version, seal_admin_secret
from keyvault.models import Consumer, ConsumerToken, Environment, Key, KeyVersion, Provider
from keyvault.prepared import prepared
from keyvault.services import catalogue, consumers, keys, people, usage
from rotation import operations
from rotation.models import Rotation, RotationPolicy
from rotation.policy import Policy, to_json
from rotation.services import policies, starting, ticking, verbs
from rotation.simulators import RunningSimulator, management_config
from tests.delivering import Desk

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
_names = itertools.count(1)


@prepared
def key_rows(key_id: uuid.UUID) -> QuerySet[Key]:
    rows = Key.objects.select_related(
        "service__provider", "service__team", "environment", "current", "pending", "previous"
    )
    return rows.filter(pk=key_id)


@prepared
def rotation_rows(key_id: uuid.UUID) -> QuerySet[Rotation]:
    """The newest first."""
    rows = Rotation.objects.filter(key_id=key_id).select_related("outgoing", "incoming")
    return rows.order_by("-created_at")


@dataclass
class Instance:
    """One running copy of a consumer, with the version it was given last."""

    name: str
    version: int = 0
    sequence: int = 0
    seen: list[int] = field(default_factory=list)


class World:
    """One key at one simulated provider, some instances, and a clock that only moves when told."""

    def __init__(
        self,
        simulator: RunningSimulator,
        settings: Any,
        *,
        policy: Policy,
        driver: str = "http",
        environment: str = "prod",
        instances: int = 4,
        now: datetime = START,
    ) -> None:
        n = next(_names)
        self.now = self.built_at = now
        self.simulator = simulator
        self.control = simulator.control
        settings.KEYTURN_EGRESS_ALLOW = frozenset({simulator.host_port})
        settings.KEYTURN_TICK = 10
        policies.install_all(now=now)
        self.team = people.create_team(SYSTEM, slug=f"team-{n}", name="", now=now)
        self.provider = self._provider(driver, n)
        self.service = catalogue.create_service(
            SYSTEM, slug=f"service-{n}", team=self.team, provider=self.provider, description="", now=now
        )
        self.environment = Environment.objects.get(slug=environment)
        self.policy = RotationPolicy.objects.create(
            slug=f"policy-{n}", document=to_json(policy), created_at=now
        )
        self.key_id = keys.create_key(SYSTEM, self.service, self.environment, now=now).id
        self.consumer, self.token = self._consumer(n)
        self.instances = [Instance(f"web-{i}") for i in range(instances)]
        self.failures: Counter[str] = Counter()
        self.requests = 0
        self.rung: deque[uuid.UUID] = deque()
        self._import_first()

    def _provider(self, driver: str, n: int) -> Provider:
        preset = Provider.objects.get(slug=self.control.slug)
        provider = Provider(
            slug=f"{preset.slug}-{n}",
            name=preset.name,
            base_url=self.simulator.base_url,
            auth_header=preset.auth_header,
            auth_scheme=preset.auth_scheme,
            driver=driver,
            driver_config=management_config() if driver == "http" else {},
            probe=preset.probe,
            errors=preset.errors,
            key_affine=preset.key_affine,
            created_at=self.now,
        )
        if driver == "http":
            seal_admin_secret(provider, self.simulator.admin_secret)
        provider.save()
        return provider

    def _consumer(self, n: int) -> tuple[Consumer, ConsumerToken]:
        consumer = consumers.create_consumer(SYSTEM, slug=f"consumer-{n}", team=self.team, now=self.now)
        token, _ = consumers.create_token(
            SYSTEM, consumer, self.environment, expires_at=self.now + timedelta(days=3000), now=self.now
        )
        consumers.set_grant(
            SYSTEM, consumer, self.service, self.environment, verbs=["read", "report"], now=self.now
        )
        return consumer, token

    def _import_first(self) -> None:
        self.first = self.control.create_key("first")
        keys.import_first(SYSTEM, self.key, self.first.value, provider_key_id=self.first.id, now=self.now)

    def begin_again(self) -> None:
        """As when it was built, at the provider and in memory; the caller has put the rows back."""
        self.control.truth.close()
        self.control.adopt_key(self.first.id, self.first.value)
        self.now = self.built_at
        self.instances = [Instance(instance.name) for instance in self.instances]
        self.failures, self.requests = Counter(), 0
        self.rung.clear()
        for cached in ("desk", "_given"):
            self.__dict__.pop(cached, None)

    # Looking ----------------------------------------------------------------------------------------

    @property
    def key(self) -> Key:
        (key,) = key_rows(self.key_id)
        return key

    @property
    def rotation(self) -> Rotation:
        rotation, *_ = rotation_rows(self.key_id)
        return rotation

    def version(self, number: int) -> KeyVersion:
        return KeyVersion.objects.select_related("key__service", "key__environment").get(
            key=self.key_id, number=number
        )

    def secret(self, number: int) -> Secret:
        return open_version(self.version(number))

    def honoured(self, number: int) -> bool:
        """Ground truth: does the provider honour this version right now?"""
        return self.control.honours(self.secret(number))

    def events(self) -> list[str]:
        return [event.name for event in self.rotation.events.all()]

    # Acting -----------------------------------------------------------------------------------------

    def start(self, **more: Any) -> Rotation:
        return starting.start(
            SYSTEM, self.key, policy=self.policy, now=self.now, ring=self.rung.append, **more
        )

    def verb(self, name: str, **more: Any) -> Rotation:
        act: Callable[..., Rotation] = getattr(verbs, name)
        return act(SYSTEM, self.rotation.id, reason="story", now=self.now, ring=self.rung.append, **more)

    def tick(self, seconds: float = 10, *, traffic: bool = True) -> None:
        """Time passes, consumers work, one beat, and the workers do everything that is rung for."""
        self.now += timedelta(seconds=seconds)
        if traffic:
            self.traffic()
        ticking.tick(self.now, ring=self.rung.append)
        self.work()

    def work(self) -> None:
        while self.rung:
            operations.perform(self.rung.popleft(), self.now, ring=self.rung.append)

    def run(
        self, until: Callable[[], bool], *, step: float = 10, most: int = 400, traffic: bool = True
    ) -> None:
        """Tick until something is so; fails when it never is."""
        for _ in range(most):
            if until():
                return
            self.tick(step, traffic=traffic)
        rotation = self.rotation
        raise AssertionError(
            f"still {rotation.stage} at weight {rotation.weight}: {rotation.waiting_for} "
            f"{rotation.attention_reason}"
        )

    def run_to(self, stage: str, **more: Any) -> None:
        self.run(lambda: self.rotation.stage == stage, **more)

    # Consumers --------------------------------------------------------------------------------------

    def some_move(self, least: int = 1) -> None:
        """More instances, until the present weight has moved so many of them: which it moves is chance."""
        incoming = self.rotation.incoming
        assert incoming is not None
        while [version for _, version in self.ask_all()].count(incoming) < least:
            self.instances.append(Instance(f"web-{len(self.instances)}"))

    def traffic(self, *, calls: int = 5) -> None:
        for instance, version in self.ask_all():
            self._use(instance, version, calls)

    @cached_property
    def desk(self) -> Desk:
        return Desk(self.token)

    def ask(self, instance: Instance) -> KeyVersion:
        """What delivery answers this instance now: its own steps, at the time of the story."""
        self.desk.forget()
        return self._ask(instance)

    def ask_all(self) -> list[tuple[Instance, KeyVersion]]:
        """``ask`` for every instance, at one moment."""
        self.desk.forget()
        return [(instance, self._ask(instance)) for instance in self.instances]

    def _ask(self, instance: Instance) -> KeyVersion:
        choice = self.desk.choose(self.service.slug, self.environment.slug, instance.name, self.now)
        version = self._given_before(as_uuid(choice.version.id))
        self.desk.record(version, instance.name, choice.label, self.now)
        instance.version = version.number
        if not instance.seen or instance.seen[-1] != version.number:
            instance.seen.append(version.number)
        return version

    @cached_property
    def _given(self) -> dict[uuid.UUID, KeyVersion]:
        return {}

    def _given_before(self, version_id: uuid.UUID) -> KeyVersion:
        """The row of a version that is given out: what is looked at here never changes any more."""
        if version_id not in self._given:
            rows = KeyVersion.objects.select_related("key__service", "key__environment")
            self._given[version_id] = rows.get(pk=version_id)
        return self._given[version_id]

    def _use(self, instance: Instance, version: KeyVersion, calls: int) -> None:
        """Call the provider some times with what was given, and report."""
        good = self.control.honours(open_version(version))
        self.requests += calls
        outcome = "ok" if good else "auth_invalid"
        if not good:
            self.failures[instance.name] += calls
        self.report(instance, version.number, {outcome: calls})

    def report(self, instance: Instance, number: int, counts: dict[str, int], **jobs: int) -> bool:
        instance.sequence += 1
        line = usage.LineInput(number, "key", counts, **jobs)
        return usage.accept_report(
            self.consumer,
            Key(pk=self.key_id),
            usage.ReportInput(
                instance.name, instance.sequence, self.now - timedelta(seconds=1), self.now, [line]
            ),
            now=self.now,
        )
