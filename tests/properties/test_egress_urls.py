"""What the way out accepts means the same to every reader of addresses. None of it needs a database."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotation.egress import EgressRefused, parse_url
from tests.conftest import Tell
from tests.scale import scaled

pytestmark = pytest.mark.once

URLS = scaled("URLS", 400, 20_000)
_PIECES = (
    "https", "http", "HTTPS", "ftp", ":", "//", "/", "\\", "@", "#", "?", "&", "%40", "%2f", "%", "[", "]",
    ".", "..", "-", ":443", ":8443", ":80", ":0443", ":99999", "example.com", "evil.example", "Example.COM",
    "127.0.0.1", "0x7f.1", "[::1]", "[2606:4700::1111]", "8.8.8.8", "a", "v1", "user", "user:word@",
    "localhost",
    "\t", "\r\n", " ", "。", "①", "ß", "xn--bcher-kva", "\u202e", "\x00", ";", ",", "*", "~", "'", '"', "<",
    ">", "|", "^",
    "{", "}",
)  # fmt: skip
_noise = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join)
_hosts = st.sampled_from(
    ("example.com", "api.Example.com", "8.8.8.8", "[2606:4700::1111]", "a-b.example.org")
)
_ports = st.sampled_from(("", "", ":443", ":8443", ":0443"))
_targets = st.one_of(
    st.just(""), st.text("abc/?&=%.;:@[]~'()!*,+$-_0129", max_size=20).map(lambda text: f"/{text}")
)
# Half of them are nearly right, so that both answers are met.
_plain = st.builds("https://{}{}{}".format, _hosts, _ports, _targets)
_addresses = st.one_of(
    _plain,
    _noise,
    st.builds("{}{}{}".format, st.just("https://"), _noise, _targets),
    st.builds("https://{}{}{}{}".format, _hosts, _noise, _ports, _targets),
    st.builds(lambda url, at, what: url[:at] + what + url[at:], _plain, st.integers(0, 40), _noise),
)


@pytest.mark.long
def test_what_is_accepted_has_one_reading(tell: Tell) -> None:
    counted = {"tried": 0, "accepted": 0}

    @settings(max_examples=URLS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_addresses)
    def agree(url: str) -> None:
        counted["tried"] += 1
        try:
            target = parse_url(url)
        except EgressRefused:
            return
        counted["accepted"] += 1
        first, second = urlsplit(url), httpx.URL(url)
        assert (first.scheme, second.scheme) == ("https", "https")
        assert (first.hostname, second.raw_host.decode().strip("[]")) == (target.host, target.host)
        assert (first.port or 443, second.port or 443) == (target.port, target.port)
        assert (first.username, first.password, second.userinfo) == (None, None, b"")
        assert "@" not in first.netloc
        assert target.port in (443, 8443)

    agree()
    tell("addresses read by three readers", counted)
    assert counted["accepted"] > URLS / 20
