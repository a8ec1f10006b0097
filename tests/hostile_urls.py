"""Addresses that are never called, by the code under which they are refused. Rows B56 to B59 and more."""

from __future__ import annotations

from typing import Final

# Not https, or nothing that is spoken over https.
SCHEMES: Final = (
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "ldap://example.com/",
)

# Every way to write this machine, this network or a cloud's own services.
HOSTS: Final = (
    "localhost", "LOCALHOST", "localhost.", "api.localhost", "127.1", "127.0.0.1", "2130706433",
    "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "0", "0.0.0.0", "[::]", "[::1]",
    "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:7f00:1]", "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001::1]", "[fec0::1]", "[fe80::1]", "[fc00::1]",
    "[fd00:ec2::254]", "[::127.0.0.1]", "[ff02::1]", "[5f00::1]", "[100::1]", "[2001:db8::1]",
    "[3fff::1]", "169.254.169.254", "168.63.129.16", "100.64.0.1", "10.0.0.1", "172.16.0.1",
    "192.168.1.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "203.0.113.7", "metadata.google.internal", "db.local", "router.lan",
    "intranet", "①②⑦.0.0.1", "127。0。0。1", "ⓛocalhost", "１２７.0.0.1", "example.com:４４３",
    "a..example.com", ".example.com", "-a.example.com", "example.com.", "1.2.3.4.5", "example.0x7f",
    "xn--.example.com.",
)  # fmt: skip

# Two readers could disagree on these, or they name what no provider has.
INVALID: Final = (
    "",
    "example.com",
    "//example.com/",
    "https:/example.com",
    "https:///path",
    "https://",
    "https://user@example.com/",
    "https://user:word@example.com/",
    "https://@example.com/",
    "https://example.com\\@evil.example/",
    "https://example.com/a\\b",
    "https:\\\\example.com/",
    "https://example.com#@evil.example/",
    "https://example.com/#fragment",
    "https://example.com:22/",
    "https://example.com:80/",
    "https://example.com:6379/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:/",
    "https://example.com:443:443/",
    "HTTP://example.com/",
    "HTTPS://example.com/",
    "https://a_b.example.com/",
    "https://example.com/\r\nX-Evil: 1",
    "https://example.com\r\n.evil.example/",
    "https://example.com/a b",
    "https://example.com/\x7f",
    "https://example.com/ä",
    " https://example.com/",
    "https://example.com/\n",
    "https://exam%70le.com/",
    "https://[::1/",
    "https://[v1.a]/",
    "https://[fe80::1%25eth0]/",
    "https://example.com,evil.example/",
)
# Texts that no field takes.
UNUSABLE: Final = ("https://example.com/\x00", "https://example.com/" + "a" * 2_029)

BY_CODE: Final = {
    **dict.fromkeys(SCHEMES, "url_scheme"),
    **{f"https://{host}/v1/hook": "url_forbidden_host" for host in HOSTS},
    **dict.fromkeys(INVALID, "url_invalid"),
}
# Names whose look-up shows what their spelling does not (tests/resolving).
LOOKED_UP: Final = {
    "https://mixed.example.com/": "url_forbidden_host",
    "https://mixed-six.example.com/": "url_forbidden_host",
    "https://inner.example.com/": "url_forbidden_host",
    "https://here.example.com:8443/": "url_forbidden_host",
    "https://metadata.example.com/latest/": "url_forbidden_host",
    "https://mapped.example.com/": "url_forbidden_host",
    "https://missing.example.com/": "url_not_found",
}
