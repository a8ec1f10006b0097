"""Django's cache settings from one URL. Used before settings exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

_REDIS: Final = frozenset({"redis", "rediss", "unix"})


def cache_settings(url: str, data_dir: Path) -> dict[str, Any]:
    """Django's ``CACHES["default"]``: files below ``data_dir`` for an empty ``url``, else Redis or Valkey.

    Raises ``ValueError``, without the URL, for any other kind of cache: they hold pickles.
    """
    if not url:
        return {
            "BACKEND": "keyvault.project.caches.FileCache",
            "LOCATION": str(data_dir / "cache"),
            # With Django's 300, a few hundred wrong names would push out the counts of all others.
            "OPTIONS": {"MAX_ENTRIES": 20_000},
        }
    known = url.replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)
    if known.partition("://")[0] not in _REDIS:
        raise ValueError("CACHE_URL must be empty, redis://, rediss://, valkey://, valkeys:// or unix://.")
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": known,
        "OPTIONS": {"serializer": "keyvault.project.caches.JSONSerializer"},
    }
