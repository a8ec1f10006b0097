"""Environments, providers and services."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from keyvault.actors import SYSTEM, actor_for
from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import KeyturnError
from keyvault.keystore import open_admin_secret
from keyvault.models import AuditEvent, Environment, Provider, Service
from keyvault.presets import PROVIDER_PRESETS
from keyvault.services import catalogue, people
from rotation.models import RotationPolicy
from rotation.services import policies
from tests.integration.furniture import NOW, Furniture, fresh_secret, furnish

pytestmark = pytest.mark.django_db

FIELDS: dict[str, Any] = {
    "name": "Example",
    "base_url": "https://api.example.org",
    "auth_header": "X-API-Key",
    "driver": "manual",
    "errors": "flat",
}


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def test_presets_are_there_once_and_what_people_changed_stays(db: None) -> None:
    for _ in range(2):
        policies.install_all(now=NOW)
    assert list(Environment.objects.values_list("slug", "protected")) == [
        ("dev", False),
        ("staging", False),
        ("prod", True),
    ]
    assert set(Provider.objects.values_list("slug", flat=True)) == {p.slug for p in PROVIDER_PRESETS}
    presets = {"standard", "fast", "emergency", "cutover"}
    assert set(RotationPolicy.objects.values_list("slug", flat=True)) == presets
    Provider.objects.filter(slug="removebgvideo").update(base_url="https://api.example.org")
    Environment.objects.filter(slug="staging").update(protected=True)
    policies.install_all(now=NOW)
    assert Provider.objects.get(slug="removebgvideo").base_url == "https://api.example.org"
    assert Environment.objects.get(slug="staging").protected


def test_a_preset_row_says_what_the_preset_says(db: None) -> None:
    policies.install_all(now=NOW)
    for preset in PROVIDER_PRESETS:
        row = Provider.objects.get(slug=preset.slug)
        for name in catalogue.PROVIDER_FIELDS - {"max_job_age_seconds", "probe", "driver_config"}:
            assert getattr(row, name) == getattr(preset, name), (preset.slug, name)
        assert row.probe == (dict(preset.probe) if preset.probe else None)
        row.full_clean()


def test_an_administrator_creates_and_changes_providers(furniture: Furniture) -> None:
    secret = fresh_secret()
    row = catalogue.create_provider(SYSTEM, slug="example", fields=FIELDS, admin_secret=secret, now=NOW)
    assert open_admin_secret(Provider.objects.get(pk=row.pk)) == secret
    catalogue.change_provider(SYSTEM, row, fields={"name": "Other"}, admin_secret=None, now=NOW)
    kept = Provider.objects.get(pk=row.pk)
    assert kept.name == "Other"
    assert open_admin_secret(kept) == secret
    newer = fresh_secret()
    catalogue.change_provider(SYSTEM, row, fields={}, admin_secret=newer, now=NOW)
    assert open_admin_secret(Provider.objects.get(pk=row.pk)) == newer
    event = AuditEvent.objects.order_by("sequence").last()
    assert event is not None
    assert event.details == {"provider": "example", "fields": ["admin_secret"]}
    assert newer.expose() not in str(Provider.objects.filter(pk=row.pk).values())


def test_nobody_else_touches_a_provider(furniture: Furniture) -> None:
    user = people.create_person("lead", "a long enough password", role=OrganisationRole.NONE)
    people.set_member(SYSTEM, furniture.team, username="lead", role=Role.LEAD, now=NOW)
    lead = actor_for(user)
    with pytest.raises(KeyturnError) as caught:
        catalogue.create_provider(lead, slug="mine", fields=FIELDS, admin_secret=None, now=NOW)
    assert caught.value.code == "permission_denied"
    with pytest.raises(KeyturnError) as caught:
        catalogue.change_provider(lead, furniture.provider, fields={"name": "x"}, admin_secret=None, now=NOW)
    assert caught.value.code == "permission_denied"
    assert not Provider.objects.filter(slug="mine").exists()


def test_a_provider_that_cannot_be_is_not_saved(furniture: Furniture) -> None:
    with pytest.raises(ValidationError):
        catalogue.create_provider(SYSTEM, slug="Not A Slug", fields=FIELDS, admin_secret=None, now=NOW)
    with pytest.raises(ValidationError):
        catalogue.change_provider(
            SYSTEM, furniture.provider, fields={"errors": "round"}, admin_secret=None, now=NOW
        )
    furniture.provider.refresh_from_db()
    assert furniture.provider.errors == "nested"
    with pytest.raises(KeyturnError):
        catalogue.create_provider(SYSTEM, slug="removit", fields=FIELDS, admin_secret=None, now=NOW)


@pytest.mark.parametrize("role", Role)
def test_a_lead_creates_and_describes_services(furniture: Furniture, role: Role) -> None:
    user = people.create_person("someone", "a long enough password", role=OrganisationRole.NONE)
    people.set_member(SYSTEM, furniture.team, username="someone", role=role, now=NOW)
    actor = actor_for(user)

    def create() -> Service:
        return catalogue.create_service(
            actor, slug="new", team=furniture.team, provider=furniture.provider, description="", now=NOW
        )

    if role is not Role.LEAD:
        with pytest.raises(KeyturnError) as caught:
            create()
        assert caught.value.code == "permission_denied"
        with pytest.raises(KeyturnError):
            catalogue.change_service(actor, furniture.service, description="x", now=NOW)
        return
    row = create()
    catalogue.change_service(actor, row, description="for pictures", now=NOW)
    assert Service.objects.get(pk=row.pk).description == "for pictures"
    with pytest.raises(KeyturnError) as caught:
        create()
    assert "slug" in caught.value.fields


def test_a_service_belongs_to_a_team_of_its_creator(furniture: Furniture) -> None:
    other = furnish()
    user = people.create_person("someone", "a long enough password", role=OrganisationRole.NONE)
    people.set_member(SYSTEM, furniture.team, username="someone", role=Role.LEAD, now=NOW)
    with pytest.raises(KeyturnError) as caught:
        catalogue.create_service(
            actor_for(user),
            slug="new",
            team=other.team,
            provider=other.provider,
            description="",
            now=NOW,
        )
    assert caught.value.code == "permission_denied"
