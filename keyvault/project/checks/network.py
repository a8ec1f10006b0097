"""Connections to other hosts: with a password, and under TLS."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

_UNDER_TLS: Final = frozenset({"rediss", "valkeys", "amqps"})
_WITHOUT_A_HOST: Final = frozenset({"", "filesystem", "redis+socket", "unix"})
_VERIFYING: Final = frozenset({"require", "verify-ca", "verify-full"})


def connections_are_protected(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Whoever can write to a broker or cache elsewhere makes us work, or resets what is counted there."""
    found: list[CheckMessage] = [
        Error(
            f"{name} leads to another host {lacks}.",
            hint="Use rediss:// or amqps:// with a user and a password, or a socket file on this host.",
            id="keyvault.E006",
        )
        for name, address in _addresses()
        if (lacks := _lacks(address))
    ]
    return [*found, *_database_without_tls()]


def _addresses() -> Iterator[tuple[str, SplitResult]]:
    named = {
        "CELERY_BROKER_URL": settings.CELERY_BROKER_URL,
        "KEYTURN_RATE_LIMIT_URL": settings.KEYTURN_RATE_LIMIT_URL,
    }
    for name, text in named.items():
        yield name, urlsplit(text)
    for cache in settings.CACHES.values():
        places = cache.get("LOCATION", "")
        for place in [places] if isinstance(places, str) else places:
            yield "CACHE_URL", urlsplit(str(place) if "://" in str(place) else "")


def _lacks(address: SplitResult) -> str:
    """What a connection lacks, in words; empty where it is sound."""
    if address.scheme in _WITHOUT_A_HOST or _is_here(address.hostname or ""):
        return ""
    if not address.password:
        return "without a password"
    return "" if address.scheme in _UNDER_TLS else "without TLS"


def _is_here(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _database_without_tls() -> list[CheckMessage]:
    options = settings.DATABASES["default"]
    host = str(options.get("HOST") or "")
    if options["ENGINE"].endswith("sqlite3") or host.startswith("/") or _is_here(host):
        return []
    if options.get("OPTIONS", {}).get("sslmode") in _VERIFYING:
        return []
    return [
        Warning(
            "DATABASE_URL leads to another host and does not insist on TLS.",
            hint="Add ?sslmode=verify-full to it, unless the network itself is encrypted.",
            id="keyvault.W006",
        )
    ]


def development_providers(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    if not settings.KEYTURN_EGRESS_ALLOW:
        return []
    return [
        Warning(
            "KEYTURN_EGRESS_ALLOW lets providers be called without https, on private addresses.",
            hint="It is for simulated providers in development: leave it out in production.",
            id="keyvault.W021",
        )
    ]
