"""Environments, providers and services: what keys belong to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid
from keyvault.keystore import seal_admin_secret
from keyvault.models import Environment, Provider, Service, Team
from keyvault.presets import PROVIDER_PRESETS

ENVIRONMENTS = (("dev", "Development", False), ("staging", "Staging", False), ("prod", "Production", True))

PROVIDER_FIELDS = frozenset(
    {
        "name",
        "base_url",
        "auth_header",
        "auth_scheme",
        "driver",
        "driver_config",
        "probe",
        "errors",
        "key_affine",
        "max_job_age_seconds",
        "max_keys",
        "derived_token_seconds",
        "dashboard_url",
    }
)


@transaction.atomic
def install_presets(*, now: datetime) -> None:
    """The environments and providers that are there from the start. Safe to call at every start."""
    for position, (slug, name, protected) in enumerate(ENVIRONMENTS):
        Environment.objects.get_or_create(
            slug=slug, defaults={"name": name, "protected": protected, "position": position}
        )
    for preset in PROVIDER_PRESETS:
        Provider.objects.get_or_create(
            slug=preset.slug,
            defaults={
                **{field: getattr(preset, field) for field in PROVIDER_FIELDS if hasattr(preset, field)},
                "driver_config": dict(preset.driver_config),
                "probe": dict(preset.probe) if preset.probe is not None else None,
                "created_at": now,
            },
        )


@transaction.atomic
def create_provider(
    actor: Actor, *, slug: str, fields: Mapping[str, object], admin_secret: Secret | None, now: datetime
) -> Provider:
    """A provider of the organisation's own. ``fields`` are those of ``PROVIDER_FIELDS``, validated before."""
    actor.demand_admin()
    if Provider.objects.filter(slug=slug).exists():
        raise invalid("slug", "A provider with this slug exists already.")
    provider = Provider(slug=slug, created_at=now, **fields)
    seal_admin_secret(provider, admin_secret)
    provider.full_clean()
    provider.save()
    audit.record("provider:created", actor=actor, now=now, provider=slug, driver=provider.driver)
    return provider


@transaction.atomic
def change_provider(
    actor: Actor,
    provider: Provider,
    *,
    fields: Mapping[str, object],
    admin_secret: Secret | None,
    now: datetime,
) -> Provider:
    """Change some fields; ``admin_secret`` None keeps the stored one."""
    actor.demand_admin()
    # Not for its key: a new service that points at it holds the audit chain while it waits for that.
    provider = Provider.objects.select_for_update(no_key=True).get(pk=provider.pk)
    for name, value in fields.items():
        setattr(provider, name, value)
    if admin_secret is not None:
        seal_admin_secret(provider, admin_secret)
    provider.full_clean()
    provider.save()
    changed = sorted([*fields, *(["admin_secret"] if admin_secret else [])])
    audit.record("provider:changed", actor=actor, now=now, provider=provider.slug, fields=changed)
    return provider


@transaction.atomic
def create_service(
    actor: Actor, *, slug: str, team: Team, provider: Provider, description: str, now: datetime
) -> Service:
    actor.demand("manage", team.id)
    if Service.objects.filter(slug=slug).exists():
        raise invalid("slug", "A service with this slug exists already.")
    service = Service(slug=slug, team=team, provider=provider, description=description, created_at=now)
    service.full_clean()
    service.save()
    audit.record(
        "service:created",
        actor=actor,
        now=now,
        team_id=team.id,
        subject=str(service.id),
        service=slug,
        provider=provider.slug,
    )
    return service


@transaction.atomic
def change_service(actor: Actor, service: Service, *, description: str, now: datetime) -> Service:
    actor.demand("manage", service.team_id)
    service.description = description
    service.full_clean()
    service.save(update_fields=["description"])
    audit.record(
        "service:changed",
        actor=actor,
        now=now,
        team_id=service.team_id,
        subject=str(service.id),
        service=service.slug,
        fields=["description"],
    )
    return service
