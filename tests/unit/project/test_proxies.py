"""Whose address counts: a table of connections and of what was said about them."""

from __future__ import annotations

from typing import Any

import pytest

from keyvault.project.proxies import Proxies, caller, parse_networks

TRUSTED = parse_networks(["10.0.0.0/8", "192.0.2.7", "fd00::/8", ""])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        # No proxy of ours: nothing that is said counts.
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        ("192.0.2.8", ["198.51.100.1"], "192.0.2.8"),
        ("2001:db8::5", ["198.51.100.1"], "2001:db8::5"),
        # A proxy of ours that says nothing speaks for itself.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["", " , "], "10.0.0.1"),
        # The right-most address that is not a proxy of ours; what stands left of it is forged or hearsay.
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.9,198.51.100.1,  10.0.0.3 ,10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1,"], "198.51.100.1"),
        # Several lines are one list.
        ("10.0.0.1", ["127.0.0.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        # Only proxies of ours: the left-most.
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # IPv6, and IPv4 in its clothes.
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("fd00::1", ["2001:0db8:0:0::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
        ("fd00::1%eth0", ["2001:db8::5"], "2001:db8::5"),
        # Ports.
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2:80"], "198.51.100.1"),
        # No address where one counts: nobody knows.
        ("10.0.0.1", ["unknown"], None),
        ("10.0.0.1", ["198.51.100.1, unknown"], None),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.0.0.2"], None),
        ("10.0.0.1", ["198.51.100.1:"], None),
        ("10.0.0.1", ["198.51.100.1:80:80"], None),
        ("10.0.0.1", ["198.51.100.1:123456"], None),
        ("10.0.0.1", ["[2001:db8::5"], None),
        ("10.0.0.1", ["[2001:db8::5]x"], None),
        ("10.0.0.1", ["198.51.100.1 198.51.100.2"], None),
        ("10.0.0.1", ["198.51.100.01"], None),
        ("10.0.0.1", ["\xff"], None),
        ("10.0.0.1", ["<script>"], None),
        # Garbage left of the one that counts does not matter.
        ("10.0.0.1", ["<script>, 198.51.100.1"], "198.51.100.1"),
        # A socket file has no address.
        ("", ["198.51.100.1"], ""),
    ],
)
def test_who_the_caller_is(peer: str, forwarded: list[str], expected: str | None) -> None:
    lines = [line.encode("latin-1") for line in forwarded]
    assert caller(peer, lines, TRUSTED) == expected


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("10.0.0.1", b"127.0.0.1, 198.51.100.1", ("198.51.100.1", 0)),
        ("10.0.0.1", b"unknown", None),
        ("203.0.113.9", b"198.51.100.1", ("203.0.113.9", 4711)),
    ],
)
def test_the_callers_address_is_the_client(peer: str, said: bytes, client: tuple[str, int] | None) -> None:
    proxies = Proxies(TRUSTED)
    for _ in range(2):  # the second time from memory
        scope = _scope(peer, [(b"x-real-ip", b"8.8.8.8"), (b"x-forwarded-for", said)])
        proxies.look_through(scope)
        assert scope["client"] == client


def _scope(peer: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"client": (peer, 4711), "scheme": "http", "headers": headers}


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        ("10.0.0.1", [b"https"], "https"),
        ("10.0.0.1", [b"HTTPS "], "https"),
        ("10.0.0.1", [b"http, https"], "https"),
        ("10.0.0.1", [b"https, http"], "http"),
        ("10.0.0.1", [b"https", b"http"], "http"),
        ("10.0.0.1", [b"wss"], "http"),
        ("10.0.0.1", [], "http"),
        ("203.0.113.9", [b"https"], "http"),
    ],
)
def test_only_a_proxy_of_ours_says_that_it_is_https(peer: str, said: list[bytes], scheme: str) -> None:
    scope = _scope(peer, [(b"x-forwarded-proto", content) for content in said])
    Proxies(TRUSTED).look_through(scope)
    assert scope["scheme"] == scheme


def test_a_header_that_is_too_long_to_be_remembered_counts_all_the_same() -> None:
    line = b"127.0.0.1, " * 2000 + b"198.51.100.1"
    scope = _scope("10.0.0.1", [(b"x-forwarded-for", line)])
    Proxies(TRUSTED).look_through(scope)
    assert scope["client"] == ("198.51.100.1", 0)


def test_a_connection_without_an_address_stays_one() -> None:
    scope = {**_scope("", [(b"x-forwarded-for", b"198.51.100.1")]), "client": None}
    Proxies(TRUSTED).look_through(scope)
    assert scope["client"] is None


@pytest.mark.parametrize("text", ["example.org", "10.0.0.1/8", "10.0.0.0/33", "*", "all"])
def test_a_setting_that_names_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.replace("*", r"\*").partition("/")[0]):
        parse_networks([text])
