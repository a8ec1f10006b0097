"""Names that tests look up. No name server is asked: it is another machine, and not there in every place.

The names that are set aside for examples (RFC 2606) have a public address, some have one that nobody may
call, and all others do not exist. Python loads this by itself where this folder is in ``PYTHONPATH``: so
servers of tests know the same names.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

PUBLIC = "93.184.215.14"
PRIVATE = {
    "inner.example.com": ["10.0.0.7"],
    "here.example.com": ["127.0.0.1"],
    "mixed.example.com": [PUBLIC, "10.0.0.7"],
    "mixed-six.example.com": [PUBLIC, "fd00::7"],
    "metadata.example.com": ["169.254.169.254"],
    "mapped.example.com": ["::ffff:169.254.169.254"],
}
MISSING = "missing.example.com"
_EXAMPLES = ("example", "example.com", "example.org", "example.net")

Lookup = Callable[..., Any]


def closed(system: Lookup) -> Lookup:
    """A ``getaddrinfo`` that knows these names, and asks ``system`` for addresses and this machine only."""

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host in (None, "", b"", "localhost") or _is_address(host):
            return system(host, port, *args, **kwargs)
        found = []
        for address in _addresses(str(host)):
            found += system(address, port, *args, **kwargs)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    return getaddrinfo


def _is_address(host: Any) -> bool:
    try:
        ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return True


def _addresses(name: str) -> list[str]:
    if name in PRIVATE:
        return PRIVATE[name]
    example = any(name == end or name.endswith(f".{end}") for end in _EXAMPLES)
    return [PUBLIC] if example and name != MISSING else []


if __name__ == "sitecustomize":
    socket.getaddrinfo = closed(socket.getaddrinfo)
