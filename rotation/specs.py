"""A provider row as the value that drivers see."""

from __future__ import annotations

from django.conf import settings

from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import digest
from keyvault.domain import State
from keyvault.keystore import keys, open_admin_secret
from keyvault.models import KeyVersion, Provider
from rotation import drivers
from rotation.drivers.base import Capabilities, ProbeSpec, ProviderSpec


def _honours(secret: Secret) -> bool:
    """For keys that we issue ourselves: do we accept this one right now?"""
    wanted = digest(keys().service.pepper, secret.expose())
    return KeyVersion.objects.filter(token_digest=wanted, state=State.ACTIVE).exists()


def provider_spec(provider: Provider, *, with_admin_secret: bool) -> ProviderSpec:
    """The provider for a driver. The management credential is opened only where a call needs it."""
    return ProviderSpec(
        slug=provider.slug,
        base_url=provider.base_url,
        auth_header=provider.auth_header,
        auth_scheme=provider.auth_scheme,
        probe=ProbeSpec.from_json(provider.probe) if provider.probe else None,
        errors="flat" if provider.errors == "flat" else "nested",
        config=provider.driver_config,
        admin_secret=open_admin_secret(provider) if with_admin_secret else None,
        key_affine=provider.key_affine,
        max_keys=provider.max_keys,
        allow_hosts=frozenset(settings.KEYTURN_EGRESS_ALLOW),
        honours=_honours if provider.driver == "generated" else None,
    )


def capabilities(provider: Provider) -> Capabilities:
    spec = provider_spec(provider, with_admin_secret=False)
    return drivers.load_driver(provider.driver).capabilities(spec)


def can_probe(provider: Provider) -> bool:
    return provider.driver == "generated" or bool(provider.probe)


def can_inspect(provider: Provider, version: KeyVersion) -> bool:
    """Whether the provider tells when it last saw this version."""
    return capabilities(provider).last_used and bool(version.provider_key_id)
