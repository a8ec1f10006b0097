"""Single sign-on asks its provider by the same way out, and gets the exceptions that it knows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from keyvault.project.single_sign_on import SingleSignOnAdapter

pytestmark = pytest.mark.once


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with SingleSignOnAdapter().get_requests_session() as made:
        yield made


def test_the_provider_may_stand_where_the_setting_says(
    answering: Any, settings: Any, session: requests.Session
) -> None:
    provider = answering(200, {"issuer": "here"}, Content_Type="application/json; charset=utf-8")
    settings.KEYTURN_OIDC_ISSUER = provider.url
    answer = session.post(f"{provider.url}/token", data={"code": "a b"}, auth=("client", "word"))
    assert (answer.ok, answer.json(), answer.encoding) == (True, {"issuer": "here"}, "utf-8")
    head, _, body = provider.requests[0].partition(b"\r\n\r\n")
    assert body == b"code=a+b"
    assert b"Authorization: Basic Y2xpZW50OndvcmQ=" in head
    assert b"User-Agent" in head


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_it_may_not_send_us_elsewhere(
    answering: Any, settings: Any, session: requests.Session, status: int
) -> None:
    elsewhere = answering(200)
    provider = answering(status, Location=f"{elsewhere.url}/stolen")
    settings.KEYTURN_OIDC_ISSUER = provider.url
    settings.KEYTURN_EGRESS_ALLOW = frozenset({elsewhere.host_port})
    with pytest.raises(requests.TooManyRedirects):
        session.get(provider.url)
    assert elsewhere.connections == 0


def test_what_its_document_names_is_held_to_the_rules(
    answering: Any, settings: Any, session: requests.Session
) -> None:
    provider, inside = answering(200), answering(200)
    settings.KEYTURN_OIDC_ISSUER = provider.url
    for url in (
        f"{inside.url}/token",
        f"https://127.0.0.1:{inside.port}/token",
        f"http://localhost:{provider.port}/token",
        f"http://user@{provider.host_port}/token",
        "https://mixed.example.com/token",
        "https://inner.example.com/token",
        "http://example.com/token",
        "https://[::ffff:169.254.169.254]/latest/meta-data/",
    ):
        with pytest.raises(requests.RequestException):
            session.get(url)
    assert (provider.connections, inside.connections) == (0, 0)


def test_the_environment_changes_nothing(
    answering: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, session: requests.Session
) -> None:
    provider, proxy = answering(200), answering(502)
    settings.KEYTURN_OIDC_ISSUER = provider.url
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    assert session.get(provider.url).status_code == 200
    assert proxy.connections == 0


def test_a_call_that_fails_is_one_that_allauth_knows(
    raw_server: Any, settings: Any, session: requests.Session
) -> None:
    silent = raw_server(lambda connection, stopping: stopping.wait(60))
    settings.KEYTURN_OIDC_ISSUER = silent.url
    with pytest.raises(requests.Timeout):
        session.get(silent.url, timeout=1.5)  # time enough to connect
    large = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2**21)
    flood = raw_server(lambda connection, stopping: connection.sendall(large))
    settings.KEYTURN_OIDC_ISSUER = flood.url
    with pytest.raises(requests.ConnectionError, match="1 MiB"):
        session.get(flood.url)
    with socket.socket() as closed:  # bound, so that it is nobody else's, and without a listener
        closed.bind(("127.0.0.1", 0))
        settings.KEYTURN_OIDC_ISSUER = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(requests.ConnectionError):
            session.get(settings.KEYTURN_OIDC_ISSUER)
