"""Providers as people describe them: checked by the drivers and the egress rules before they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Provider
from keyvault.services import catalogue
from rotation import egress
from rotation.drivers import DRIVERS
from rotation.drivers.base import check_probe, is_header_name, is_header_value
from rotation.drivers.http_config import check_config

NEEDS_URL = frozenset({"manual", "http"})


def create_provider(
    actor: Actor, *, slug: str, fields: Mapping[str, Any], admin_secret: Secret | None, now: datetime
) -> Provider:
    """A provider of the organisation's own. Raises ``validation_error`` naming each problem."""
    actor.demand_admin()
    check_provider(Provider(slug=slug, created_at=now, **fields))
    return catalogue.create_provider(actor, slug=slug, fields=fields, admin_secret=admin_secret, now=now)


def change_provider(
    actor: Actor, provider: Provider, *, fields: Mapping[str, Any], admin_secret: Secret | None, now: datetime
) -> Provider:
    """Change some fields of a provider; the whole must be sound afterwards."""
    actor.demand_admin()
    for name, value in fields.items():
        setattr(provider, name, value)
    check_provider(provider)
    return catalogue.change_provider(actor, provider, fields=fields, admin_secret=admin_secret, now=now)


def check_provider(provider: Provider) -> None:
    """Raise ``validation_error`` with every problem of this (unsaved) provider."""
    problems: dict[str, list[str]] = {}
    if provider.driver not in DRIVERS:
        problems["driver"] = [f"Use one of: {', '.join(sorted(DRIVERS))}."]
    if provider.base_url or provider.driver in NEEDS_URL:
        problems |= _base_url(provider.base_url)
    if not is_header_name(provider.auth_header):
        problems["auth.header"] = ["Use the name of a header."]
    if not is_header_value(provider.auth_scheme) or " " in provider.auth_scheme:
        problems["auth.scheme"] = ["Use one word, or leave it empty."]
    if provider.probe is not None:
        problems |= _sentences("probe", check_probe(provider.probe))
    config = provider.driver_config
    if provider.driver == "http":
        problems |= _sentences("driver_config", check_config(config))
    elif config:
        problems["driver_config"] = [f"The driver {provider.driver} takes no configuration."]
    if problems:
        raise KeyturnError("validation_error", "The request is not valid.", fields=problems)


def _base_url(url: str) -> dict[str, list[str]]:
    try:
        target = egress.parse_url(url, allow_hosts=frozenset(settings.KEYTURN_EGRESS_ALLOW))
    except egress.EgressRefused as refused:
        return {"base_url": [f"{refused.message[:1].upper()}{refused.message[1:]}."]}
    if "?" in target.target:
        return {"base_url": ["Leave out the query; probes and calls add their own."]}
    return {}


def _sentences(field: str, problems: list[str]) -> dict[str, list[str]]:
    if not problems:
        return {}
    return {field: [f"{problem[:1].upper()}{problem[1:]}." for problem in problems]}


def split_admin_secret(config: dict[str, Any]) -> tuple[dict[str, Any], object]:
    """The configuration without ``admin_secret``, and what was given as that (None: nothing)."""
    kept = dict(config)
    given = kept.pop("admin_secret", None)
    if given == "":
        raise invalid("driver_config.admin_secret", "The secret is empty.")
    return kept, given
