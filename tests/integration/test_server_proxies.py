"""What a page, on a thread of Django, gets to know of its caller."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.integration.plain_http import ask_once
from tests.integration.small_server import small_server

pytestmark = [pytest.mark.once, pytest.mark.serial]

SAID = [
    "X-Forwarded-For: 10.0.0.9",
    "X-Forwarded-For: 198.51.100.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "Forwarded: for=10.0.0.9",
    "X-Real-IP: 10.0.0.9",
]


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        ([], {"REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http"}),
        (["10.0.0.0/8"], {"REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http"}),
        (["127.0.0.1"], {"REMOTE_ADDR": "198.51.100.1", "wsgi.url_scheme": "https"}),
    ],
    ids=["no proxy", "another proxy", "our proxy"],
)
def test_only_our_proxy_is_believed(
    tmp_path: Path, free_port: int, proxies: list[str], seen: dict[str, str]
) -> None:
    with small_server(tmp_path, free_port, proxies=proxies):
        answer = asyncio.run(ask_once(free_port, "/page", headers=SAID))
    assert json.loads(answer.body) == seen
