"""Where copies of checkpoints go, from ``KEYTURN_CHECKPOINTS_TO``."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

SCHEMES = ("file", "syslog", "https", "http")


def parse_places(texts: Iterable[str]) -> tuple[str, ...]:
    """Check addresses such as ``file:///mnt/other/checkpoints``, ``syslog:///dev/log``,
    ``syslog://logs.example.net:514`` and ``https://example.net/checkpoints``.

    Raises ``ValueError`` that names the address.
    """
    places = tuple(text.strip() for text in texts if text.strip())
    for place in places:
        parts = urlsplit(place)
        if parts.scheme not in SCHEMES or not (parts.netloc or parts.path.startswith("/")):
            raise ValueError(f"KEYTURN_CHECKPOINTS_TO: {place} is no file:, syslog: or https: address.")
        if parts.scheme == "file" and parts.netloc:
            raise ValueError(f"KEYTURN_CHECKPOINTS_TO: {place} names a host; write file:///folder.")
    return places
