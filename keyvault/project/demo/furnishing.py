"""What the demo sets up in Keyturn over the management API: providers, services, keys, consumers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyvault.crypto.secret import Secret
from keyvault.presets import PROVIDER_PRESETS
from keyvault.project.demo.cast import (
    CAUTIOUS,
    CONSUMERS,
    COPIES,
    ENVIRONMENTS,
    FORGETFUL,
    MANUAL,
    POLICY,
    SERVICES,
    STAGING_CONSUMERS,
    TEAM,
    WATCHFUL,
    DemoKey,
)
from keyvault.project.demo.instances import CALM_THINK_SECONDS, Account, Consumer, Instance
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.managing import Api
from keyvault.project.demo.pace import Pace, document
from keyvault.project.demo.tokens import BackgroundCutUse
from keyvault.project.demo.trouble import DemoError
from keyvault.project.demo.uses import BackgroundEraseUse, RemoveBGVideoUse, RemovitUse, Use
from keyvault.project.demo.wire import Wire
from rotation.policy import EMERGENCY
from rotation.simulators import RunningSimulator, management_config

_FIRST_KEYS_SECONDS: Final = 300.0


@dataclass(frozen=True)
class World:
    """What there is once everything is set up."""

    api: Api
    pace: Pace
    simulators: Mapping[str, RunningSimulator]
    consumers: tuple[Consumer, ...]
    staging_consumers: tuple[Consumer, ...]


def furnish(api: Api, pace: Pace, simulators: Mapping[str, RunningSimulator], lead: str) -> World:
    """Set everything up, in the order in which a user would. Raises ``DemoError``."""
    for slug, simulator in simulators.items():
        _point_at(api, pace, slug, simulator)
    api.post("/v1/teams/", {"slug": TEAM, "name": "Imaging"})
    api.post(f"/v1/teams/{TEAM}/members/", {"user": lead, "role": "lead"})
    _add_policies(api, pace)
    for provider, simulator in simulators.items():
        _add_service(api, provider, simulator)
    _await_first_keys(api)
    for slug in CONSUMERS:
        api.post("/v1/consumers/", {"slug": slug, "team": TEAM})
    return World(
        api,
        pace,
        simulators,
        consumers=tuple(_admit(api, slug, "prod") for slug in CONSUMERS),
        staging_consumers=tuple(_admit(api, slug, "staging") for slug in STAGING_CONSUMERS),
    )


def _add_policies(api: Api, pace: Pace) -> None:
    api.post("/v1/policies/", {"slug": POLICY, **document(pace.policy())})
    api.post("/v1/policies/", {"slug": CAUTIOUS, **document(pace.cautious(CONSUMERS[:1]))})
    api.post("/v1/policies/", {"slug": WATCHFUL, **document(pace.watchful())})
    api.patch("/v1/policies/emergency/", document(pace.emergency(), EMERGENCY))


def _point_at(api: Api, pace: Pace, slug: str, simulator: RunningSimulator) -> None:
    """The preset of a provider, with the simulator's address and management API in place of the real ones."""
    preset = next(preset for preset in PROVIDER_PRESETS if preset.slug == slug)
    changes: dict[str, object] = {"base_url": simulator.base_url}
    if preset.derived_token_seconds:
        changes["derived_token_life"] = f"PT{pace.token_seconds(preset.derived_token_seconds)}S"
    if slug != MANUAL:
        config = {**management_config(), "admin_secret": simulator.admin_secret.expose()}
        if slug == FORGETFUL:
            del config["idempotency_header"]
        changes |= {"driver": "http", "driver_config": config}
    api.patch(f"/v1/providers/{slug}/", changes)


def _add_service(api: Api, provider: str, simulator: RunningSimulator) -> None:
    slug, description = SERVICES[provider]
    api.post("/v1/services/", {"slug": slug, "team": TEAM, "provider": provider, "description": description})
    for environment in ENVIRONMENTS:
        body: dict[str, object] = {"environment": environment, "policy": POLICY}
        if provider == MANUAL:
            body["secret"] = simulator.control.create_key(
                DemoKey(provider, environment).page_label
            ).value.expose()
        api.post(f"/v1/services/{slug}/keys/", body)


def _await_first_keys(api: Api) -> None:
    """The driver issues the first version of a key; a worker does that."""
    deadline = time.monotonic() + _FIRST_KEYS_SECONDS
    while missing := [key for slug, _ in SERVICES.values() for key in _without_version(api, slug)]:
        if time.monotonic() > deadline:
            raise DemoError(f"No first version after {_FIRST_KEYS_SECONDS:.0f} s: {', '.join(missing)}")
        time.sleep(0.5)


def _without_version(api: Api, service: str) -> list[str]:
    keys = api.everything(f"/v1/services/{service}/keys/")
    return [f"{service}/{key['environment']}" for key in keys if key["current"] is None or key["rotation"]]


def current_version(api: Api, key: DemoKey) -> int | None:
    """The number of the key's current version."""
    number: int | None = api.get(f"/v1/services/{key.service}/keys/{key.environment}/")["current"]
    return number


def _admit(api: Api, slug: str, environment: str) -> Consumer:
    """A consumer's token in an environment, and its grants for all four services there."""
    # A dozen keys fetched and reported every other second is more than the usual 600 requests a minute.
    wanted = {"environment": environment, "rate_limit": "6000/min"}
    made = api.post(f"/v1/consumers/{slug}/tokens/", wanted)
    for service, _ in SERVICES.values():
        grant = {
            "consumer": slug,
            "service": service,
            "environment": environment,
            "verbs": ["read", "report"],
        }
        api.post("/v1/grants/", grant)
    return Consumer(slug, Secret(str(made["token"])))


def instances(world: World, ledger: Ledger, stop: threading.Event) -> list[Instance]:
    """A dozen consumer instances in prod, not started yet; each of them uses all four services."""
    return [
        Instance(name, _accounts(world, consumer, name, "prod", ledger), stop)
        for copy in range(1, COPIES + 1)
        for consumer in world.consumers
        for name in [f"{consumer.slug}-{copy}"]
    ]


def staging_instances(world: World, ledger: Ledger, stop: threading.Event) -> list[Instance]:
    """One instance of each consumer that is in staging too, not started yet."""
    return [
        Instance(name, _accounts(world, consumer, name, "staging", ledger), stop, CALM_THINK_SECONDS)
        for consumer in world.staging_consumers
        for name in [f"{consumer.slug}-staging"]
    ]


def _accounts(
    world: World, consumer: Consumer, instance: str, environment: str, ledger: Ledger
) -> list[Account]:
    keyturn = Wire(world.api.base_url)
    return [
        Account(
            keyturn,
            consumer,
            instance,
            DemoKey(slug, environment),
            use_of(slug, world.pace),
            ledger,
            world.pace.refresh,
        )
        for slug in world.simulators
    ]


def use_of(slug: str, pace: Pace) -> Use:
    """Fresh work at a provider."""
    if slug == BackgroundCutUse.slug:
        preset = next(preset for preset in PROVIDER_PRESETS if preset.slug == slug)
        return BackgroundCutUse(pace.token_seconds(preset.derived_token_seconds))
    plain: dict[str, type[Use]] = {
        use.slug: use for use in (BackgroundEraseUse, RemovitUse, RemoveBGVideoUse)
    }
    return plain[slug]()
