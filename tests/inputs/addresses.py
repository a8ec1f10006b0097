"""B56 to B59: addresses that would have the server call somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.hostile_urls import HOSTS, INVALID, LOOKED_UP, SCHEMES, UNUSABLE
from tests.inputs.table import Table, row

PROBE = {"method": "GET", "path": "/me", "accepted": [200], "rejected": [401]}
_SHORT = len("https://x")


def _refused(t: Table, found: Mapping[str, str]) -> None:
    """As the base URL of a provider, and some as the address of a webhook."""
    for number, (url, code) in enumerate(found.items()):
        sent = url if len(url) > _SHORT else ""
        provider = {"slug": "never", "driver": "http", "base_url": url, "probe": PROBE}
        t.refused(t.person("POST", "/v1/providers/", provider), 400, code, sent=sent, fields=["base_url"])
        if url and number % 4 == 0:
            channel = {"slug": "never", "kind": "webhook", "url": url}
            t.refused(t.person("POST", "/v1/channels/", channel), 400, code, sent=sent, fields=["url"])


@row("B56", "no https")
def schemes(t: Table) -> None:
    _refused(t, dict.fromkeys(SCHEMES, "url_scheme"))


@row("B57", "a host that is not public")
def hosts(t: Table) -> None:
    _refused(t, {f"https://{host}/v1/hook": "url_forbidden_host" for host in HOSTS})


@row("B58", "what two readers could read in two ways")
def spellings(t: Table) -> None:
    _refused(t, dict.fromkeys(INVALID, "url_invalid"))
    for url in UNUSABLE:
        channel: dict[str, Any] = {"slug": "never", "kind": "chat", "url": url}
        t.refused(t.person("POST", "/v1/channels/", channel), 400, "validation_error", sent=url)
    # Paths of probes and of the management API stay below the base URL.
    for path in (
        "@evil.example/",
        "//evil.example/",
        "https://evil.example/",
        "/a\r\nX: y",
        "/a b",
        "me",
        "",
    ):
        provider = {"slug": "never", "driver": "manual", "base_url": "https://api.example.org"}
        probe = {**PROBE, "path": path}
        t.invalid(t.person("POST", "/v1/providers/", {**provider, "probe": probe}), "probe", sent=path)


@row("B59", "a name that leads inside, or nowhere")
def names(t: Table) -> None:
    _refused(t, LOOKED_UP)
