"""What the demo sets up in Keyturn over the management API: providers, services, keys, consumers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyvault.crypto.secret import Secret
from keyvault.presets import PROVIDER_PRESETS
from keyvault.project.demo.instances import Account, Consumer, Instance
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.managing import Api
from keyvault.project.demo.pace import Pace
from keyvault.project.demo.tokens import BackgroundCutUse
from keyvault.project.demo.trouble import DemoError
from keyvault.project.demo.uses import BackgroundEraseUse, RemoveBGVideoUse, RemovitUse, Use
from keyvault.project.demo.wire import Wire
from rotation.simulators import RunningSimulator, management_config

TEAM: Final = "imaging"
POLICY: Final = "demo"
ENVIRONMENTS: Final = ("dev", "staging", "prod")
CONSUMERS: Final = ("web-shop", "mobile-app", "print-lab", "asset-import")
COPIES: Final = 3  # instances of each consumer
MANUAL: Final = "backgrounderase"  # its keys are made by a person on its account page
SERVICES: Final[Mapping[str, tuple[str, str]]] = {
    "backgrounderase": ("background-removal", "Backgrounds of product photos"),
    "removit": ("photo-cleanup", "Objects and text removed from photos"),
    "removebgvideo": ("video-background", "Backgrounds of short clips"),
    "backgroundcut": ("product-cutout", "Cut-outs, also straight from the browser"),
}
_FIRST_KEYS_SECONDS: Final = 60.0


@dataclass(frozen=True)
class World:
    """What there is once everything is set up."""

    api: Api
    pace: Pace
    simulators: Mapping[str, RunningSimulator]
    consumers: tuple[Consumer, ...]


def prod_key(provider: str) -> str:
    """The path of the key that the demo rotates."""
    return f"/v1/keys/{SERVICES[provider][0]}/prod/"


def furnish(api: Api, pace: Pace, simulators: Mapping[str, RunningSimulator], lead: str) -> World:
    """Set everything up, in the order in which a user would. Raises ``DemoError``."""
    for slug, simulator in simulators.items():
        _point_at(api, pace, slug, simulator)
    api.post("/v1/teams/", {"slug": TEAM, "name": "Imaging"})
    api.post(f"/v1/teams/{TEAM}/members/", {"user": lead, "role": "lead"})
    api.post("/v1/policies/", {"slug": POLICY, **pace.policy_document()})
    for provider, simulator in simulators.items():
        _add_service(api, provider, simulator)
    _await_first_keys(api)
    consumers = tuple(_add_consumer(api, slug) for slug in CONSUMERS)
    return World(api, pace, simulators, consumers)


def _point_at(api: Api, pace: Pace, slug: str, simulator: RunningSimulator) -> None:
    """The preset of a provider, with the simulator's address and management API in place of the real ones."""
    preset = next(preset for preset in PROVIDER_PRESETS if preset.slug == slug)
    changes: dict[str, object] = {"base_url": simulator.base_url}
    if preset.derived_token_seconds:
        changes["derived_token_life"] = f"PT{pace.token_seconds(preset.derived_token_seconds)}S"
    if slug != MANUAL:
        config = {**management_config(), "admin_secret": simulator.admin_secret.expose()}
        changes |= {"driver": "http", "driver_config": config}
    api.patch(f"/v1/providers/{slug}/", changes)


def _add_service(api: Api, provider: str, simulator: RunningSimulator) -> None:
    slug, description = SERVICES[provider]
    api.post("/v1/services/", {"slug": slug, "team": TEAM, "provider": provider, "description": description})
    for environment in ENVIRONMENTS:
        body: dict[str, object] = {"environment": environment, "policy": POLICY}
        if provider == MANUAL:
            body["secret"] = simulator.control.create_key(f"{slug} {environment}").value.expose()
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


def current_version(api: Api, provider: str) -> int | None:
    """The number of the current version of a provider's prod key."""
    number: int | None = api.get(f"/v1/services/{SERVICES[provider][0]}/keys/prod/")["current"]
    return number


def _add_consumer(api: Api, slug: str) -> Consumer:
    api.post("/v1/consumers/", {"slug": slug, "team": TEAM})
    # A dozen keys fetched and reported every other second is more than the usual 600 requests a minute.
    made = api.post(f"/v1/consumers/{slug}/tokens/", {"environment": "prod", "rate_limit": "6000/min"})
    for service, _ in SERVICES.values():
        grant = {"consumer": slug, "service": service, "environment": "prod", "verbs": ["read", "report"]}
        api.post("/v1/grants/", grant)
    return Consumer(slug, Secret(str(made["token"])))


def instances(world: World, ledger: Ledger, stop: threading.Event) -> list[Instance]:
    """A dozen consumer instances, not started yet; each of them uses all four services."""
    return [
        Instance(
            f"{consumer.slug}-{copy}", _accounts(world, consumer, f"{consumer.slug}-{copy}", ledger), stop
        )
        for copy in range(1, COPIES + 1)
        for consumer in world.consumers
    ]


def _accounts(world: World, consumer: Consumer, instance: str, ledger: Ledger) -> list[Account]:
    keyturn = Wire(world.api.base_url)
    return [
        Account(
            keyturn, consumer, instance, prod_key(slug), use_of(slug, world.pace), ledger, world.pace.refresh
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
