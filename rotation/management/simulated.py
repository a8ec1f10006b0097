"""A key at a simulated provider, for drills where the real one is worked by hand or must be left alone.

The simulator listens on a loopback address that KEYTURN_EGRESS_ALLOW names, so that this process and every
worker may call it. Provider, service and key stay for the next drill; no schedule follows them, and their
secrets are worth something there only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.conf import settings

from keyvault.actors import Actor
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.keystore import open_version
from keyvault.models import Key, KeyVersion, Provider, Service
from keyvault.services import catalogue
from keyvault.services import keys as key_services
from rotation.services import providers
from rotation.simulators import SIMULATORS, RunningSimulator, management_config, start

HOST = "127.0.0.1"
USUAL = "removit"  # stands in for a provider that has no simulator


@contextmanager
def simulated_key(actor: Actor, key: Key, *, now: datetime) -> Iterator[Key]:
    """While the block runs: a key that stands in for this one, at a simulator of its provider's kind.

    Raises ``invalid_transition`` where there is no address for the simulator, and ``permission_denied`` for
    whoever may not create providers.
    """
    actor.demand_admin()
    slug = key.service.provider.slug
    try:
        simulator = start(slug if slug in SIMULATORS else USUAL, host=HOST, port=_port())
    except OSError as error:
        raise _refused("The address of the simulator is taken. Is another drill going on?") from error
    try:
        yield _stand_in(actor, key, simulator, now)
    finally:
        simulator.stop()


def _refused(message: str) -> KeyturnError:
    return KeyturnError("invalid_transition", message)


def _port() -> int:
    for allowed in sorted(settings.KEYTURN_EGRESS_ALLOW):
        host, _, port = allowed.rpartition(":")
        if host == HOST and port.isdecimal():
            return int(port)
    raise _refused(f"Name an address for the simulator in KEYTURN_EGRESS_ALLOW, such as {HOST}:9101.")


def _stand_in(actor: Actor, key: Key, simulator: RunningSimulator, now: datetime) -> Key:
    provider = _provider(actor, simulator, now)
    slug = f"{key.service.slug[:57]}-drill"
    service = Service.objects.filter(slug=slug).first() or catalogue.create_service(
        actor,
        slug=slug,
        team=key.service.team,
        provider=provider,
        description="Rehearsals at a simulated provider",
        now=now,
    )
    rows = Key.objects.named(slug, key.environment.slug)
    if not rows.exists():
        made = key_services.create_key(actor, service, key.environment, now=now)
        issued = simulator.control.create_key("first")
        key_services.import_first(actor, made, issued.value, provider_key_id=issued.id, now=now)
    else:
        _remember(rows.get(), simulator)
    return rows.select_related("service__provider", "service__team", "environment", "current").get()


def _provider(actor: Actor, simulator: RunningSimulator, now: datetime) -> Provider:
    kind = simulator.control.slug
    provider = Provider.objects.filter(slug=f"drill-{kind}").first()
    secret, address = simulator.admin_secret, simulator.base_url
    if provider is not None:
        return providers.change_provider(
            actor, provider, fields={"base_url": address}, admin_secret=secret, now=now
        )
    preset = Provider.objects.get(slug=kind)
    copied = ("auth_header", "auth_scheme", "probe", "errors", "key_affine")
    fields: dict[str, Any] = {
        "name": f"{preset.name} (simulated)",
        "base_url": address,
        "driver": "http",
        "driver_config": management_config(),
        **{name: getattr(preset, name) for name in copied},
    }
    return providers.create_provider(actor, slug=f"drill-{kind}", fields=fields, admin_secret=secret, now=now)


def _remember(key: Key, simulator: RunningSimulator) -> None:
    """A simulator begins with nothing: give it the keys that its account had at the last drill."""
    live = KeyVersion.objects.filter(key=key, state__in=[State.ACTIVE, State.DISABLED])
    for version in live.select_related("key__service", "key__environment"):
        simulator.control.adopt_key(version.provider_key_id, open_version(version))
