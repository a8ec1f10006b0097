"""Providers as people describe them: checked by the drivers and the egress rules before they are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Key, Provider
from keyvault.services import catalogue
from rotation.drivers import DRIVERS
from rotation.drivers.base import check_probe, is_header_name, is_header_value
from rotation.drivers.http_config import check_config
from rotation.services import addresses

NEEDS_URL = frozenset({"manual", "http"})


def create_provider(
    actor: Actor, *, slug: str, fields: Mapping[str, Any], admin_secret: Secret | None, now: datetime
) -> Provider:
    """A provider of the organisation's own. Raises ``validation_error`` naming each problem."""
    actor.demand_admin()
    check_provider(Provider(slug=slug, created_at=now, **fields))
    return catalogue.create_provider(actor, slug=slug, fields=fields, admin_secret=admin_secret, now=now)


def mark_of(provider: Provider) -> str:
    """What a person saw of a provider: 16 hexadecimal digits over all that can be changed."""
    told = {name: getattr(provider, name) for name in sorted(catalogue.PROVIDER_FIELDS)}
    secret = bytes(provider.admin_wrapped_dek or b"")
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode() + secret).hexdigest()[:16]


def guards_protected(provider: Provider) -> bool:
    """Whether a key of a protected environment is sent there."""
    return Key.objects.filter(service__provider=provider, environment__protected=True).exists()


@transaction.atomic
def change_provider(
    actor: Actor,
    provider: Provider,
    *,
    fields: Mapping[str, Any],
    admin_secret: Secret | None,
    seen: str = "",
    now: datetime,
) -> Provider:
    """Change some fields of a provider; the whole must be sound afterwards.

    ``seen``: ``mark_of`` the provider as the person saw it; ``precondition_failed`` where it is another one.
    """
    actor.demand_admin()
    provider = Provider.objects.select_for_update(no_key=True).get(pk=provider.pk)
    if seen and seen != mark_of(provider):
        raise KeyturnError("precondition_failed", "Somebody else has saved this provider meanwhile.")
    for name, value in fields.items():
        setattr(provider, name, value)
    check_provider(provider)
    return catalogue.change_provider(actor, provider, fields=fields, admin_secret=admin_secret, now=now)


def check_provider(provider: Provider) -> None:
    """Raise with all problems of this (unsaved) provider: ``validation_error`` or the code of its address."""
    problems: dict[str, list[str]] = {}
    if provider.driver not in DRIVERS:
        problems["driver"] = [f"Use one of: {', '.join(sorted(DRIVERS))}."]
    address = None
    if provider.base_url or provider.driver in NEEDS_URL:
        address = _base_url(provider.base_url)
        if address is not None:
            problems["base_url"] = [address.sentence]
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
    link = provider.dashboard_url
    if link and not (link.startswith(("https://", "http://")) and link.isprintable()):
        problems["dashboard_url"] = ["Use an address that begins with https://."]
    addresses.refuse(problems, address)


def _base_url(url: str) -> addresses.Problem | None:
    if "?" in url and addresses.problem_of(url) is None:
        return addresses.Problem("url_invalid", "Leave out the query; probes and calls add their own.")
    return addresses.problem_of(url)


def look_up(actor: Actor, base_url: object, *, before: str = "") -> None:
    """Ask where the name in a new base URL leads; ``before``: the one that is stored. Not in a transaction.

    Raises ``url_forbidden_host`` and ``url_not_found``.
    """
    actor.demand_admin()
    if isinstance(base_url, str) and base_url not in ("", before):
        addresses.look_up(base_url, "base_url")


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
