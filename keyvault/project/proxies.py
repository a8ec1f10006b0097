"""Who is calling, and over what, when a reverse proxy stands in between.

Forwarding headers are text that anybody can send. They count only on a connection that comes from an
address in ``KEYTURN_TRUSTED_PROXIES``, and then from the right: every proxy appends who spoke to it, so
what stands left of the last address that a trusted proxy wrote is hearsay.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

_KEPT = 4096
# A longer header is read every time: what callers send must not fill our memory.
_LONGEST_KEPT = 256


def parse_networks(texts: Iterable[str]) -> Networks:
    """Addresses and networks (``10.0.0.5``, ``10.1.0.0/16``, ``fd00::/8``). Raises ``ValueError``."""
    return tuple(ip_network(text.strip()) for text in texts if text.strip())


def caller(peer: str, forwarded: Sequence[bytes], trusted: Networks) -> str | None:
    """The address of the caller: ``peer``, or what trusted proxies say of it.

    ``forwarded`` are the ``X-Forwarded-For`` lines in the order in which they came. The answer is the
    right-most address that is not a trusted proxy; where all are, the left-most. None: the entry that
    counts is no address, so nobody knows.
    """
    found = _parse(peer)
    if found is None or not _within(found, trusted):
        return peer if found is None else str(found)
    for entry in reversed(b",".join(forwarded).decode("latin-1").split(",")):
        if not entry.strip():
            continue
        found = _parse(_without_port(entry.strip()))
        if found is None:
            return None
        if not _within(found, trusted):
            break
    return str(found)


class Proxies:
    """The proxies that this installation trusts, for the server's ``scope`` of a request."""

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted
        self._known = lru_cache(maxsize=_KEPT)(self._caller)
        self._is_trusted = lru_cache(maxsize=_KEPT)(self._within)

    def look_through(self, scope: MutableMapping[str, Any]) -> None:
        """Put the caller's address into ``client`` and the caller's protocol into ``scheme``."""
        client = scope.get("client")
        if client is None or not self._is_trusted(client[0]):
            return
        lines, protocol = [], b""
        for name, content in scope["headers"]:
            if name == b"x-forwarded-for":
                lines.append(content)
            elif name == b"x-forwarded-proto":
                protocol = content
        if lines:
            short = sum(map(len, lines)) <= _LONGEST_KEPT
            address = (self._known if short else self._caller)(client[0], tuple(lines))
            scope["client"] = None if address is None else (address, 0)
        protocol = protocol.rpartition(b",")[2].strip().lower()
        if protocol in (b"http", b"https"):
            scope["scheme"] = protocol.decode()

    def _caller(self, peer: str, lines: tuple[bytes, ...]) -> str | None:
        return caller(peer, lines, self._trusted)

    def _within(self, peer: str) -> bool:
        address = _parse(peer)
        return address is not None and _within(address, self._trusted)


def _parse(text: str) -> Address | None:
    try:
        # A zone ("%eth0") names an interface of the machine that wrote it.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket for both families shows IPv4 callers as IPv6.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _without_port(entry: str) -> str:
    """``192.0.2.1:80`` and ``[2001:db8::1]:80`` occur; an IPv6 address without brackets has no port."""
    if entry.startswith("["):
        inside, bracket, port = entry[1:].partition("]")
        return inside if bracket and (not port or _is_port(port)) else ""
    host, colon, port = entry.partition(":")
    return host if _is_port(colon + port) else entry


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6


def _within(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)
