"""A key with its first version: imported from a person, or issued by the provider's driver."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid
from keyvault.models import Environment, Key, Service
from keyvault.services import keys as key_services
from rotation import engine, specs
from rotation.models import Rotation, RotationPolicy
from rotation.services import policies, starting


@dataclass(frozen=True)
class AddedKey:
    """The new key, and the rotation that issues its first version where nothing was imported."""

    key: Key
    rotation: Rotation | None


@transaction.atomic
def add_key(
    actor: Actor,
    service: Service,
    environment: Environment,
    *,
    secret: Secret | None,
    provider_key_id: str = "",
    expires_at: datetime | None = None,
    policy: RotationPolicy | None = None,
    never_shown: bool | None = None,
    now: datetime,
    ring: engine.Ring | None = None,
) -> AddedKey:
    """Create the key of this service in this environment and let it follow ``policy`` (or the default one).

    ``never_shown``: whether people may not reveal it, by default as the environment is protected.
    Raises ``validation_error`` for ``secret`` where there is none and the driver cannot issue one.
    """
    actor.demand("manage", service.team_id)
    if secret is None and not specs.capabilities(service.provider).issue:
        raise invalid(
            "secret",
            f"A person creates the keys of {service.provider.slug}. Create one there and send it here.",
        )
    key = key_services.create_key(actor, service, environment, never_shown=never_shown, now=now)
    rotation = None
    if secret is not None:
        key_services.import_first(
            actor, key, secret, provider_key_id=provider_key_id, expires_at=expires_at, now=now
        )
    policies.assign_policy(actor, key, policy, now=now)  # its date may come from the version
    if secret is None:
        rotation = starting.start(actor, key, reason="first version", now=now, ring=ring)
    return AddedKey(key_services.lock_key(key.id), rotation)
