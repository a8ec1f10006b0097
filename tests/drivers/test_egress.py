"""The one way out refuses before it connects, and does not follow, wait or read beyond its limits."""

import gzip
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from rotation import egress
from rotation.egress import (
    EgressConnectError,
    EgressInterrupted,
    EgressRefused,
    EgressTimeout,
    is_public,
    look_up,
    parse_url,
    request,
)
from tests.conftest import Tell
from tests.hostile_urls import BY_CODE, HOSTS, LOOKED_UP, UNUSABLE

pytestmark = pytest.mark.once
PATIENCE = 60.0  # seconds; of whoever would wait for ever
# Seconds; of whoever meets the deadline. Within them even a busy machine connects to itself, for a connection
# that is not made in time is another error.
SHORT = 1.5


@pytest.mark.parametrize(("url", "code"), BY_CODE.items())
def test_an_address_that_is_never_called_is_refused_as_it_is_written(url: str, code: str) -> None:
    with pytest.raises(EgressRefused) as caught:
        parse_url(url)
    assert caught.value.code == code
    assert not url or url not in str(caught.value)


def test_a_text_that_is_no_address_at_all_is_refused(tell: Tell) -> None:
    for url in UNUSABLE:
        with pytest.raises(EgressRefused) as caught:
            parse_url(url)
        assert caught.value.code == "url_invalid"
    tell("addresses refused", {"as written": len(BY_CODE) + len(UNUSABLE), "as looked up": len(LOOKED_UP)})


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("https://example.com", "example.com", 443, "/"),
        ("https://API.Example.com:8443/v1/?a=%20b", "api.example.com", 8443, "/v1/?a=%20b"),
        ("https://example.com?x=1", "example.com", 443, "/?x=1"),
        ("https://8.8.8.8/", "8.8.8.8", 443, "/"),
        ("https://[2606:4700::1111]/", "2606:4700::1111", 443, "/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/"),
        ("https://example.com/" + "a" * 2_028, "example.com", 443, "/" + "a" * 2_028),
    ],
)
def test_a_plain_url_is_parsed_once_into_its_parts(url: str, host: str, port: int, target: str) -> None:
    parsed = parse_url(url)
    assert (parsed.scheme, parsed.host, parsed.port, parsed.target) == ("https", host, port, target)
    assert not parsed.allowed


def test_the_allow_list_names_a_host_and_a_port() -> None:
    allow = frozenset({"127.0.0.1:8801", "simulator:80", "[::1]:8801"})
    assert parse_url("http://127.0.0.1:8801/v2", allow_hosts=allow).allowed
    assert parse_url("http://simulator/v2", allow_hosts=allow).port == 80
    assert parse_url("http://[::1]:8801/", allow_hosts=allow).allowed
    for url in (
        "http://127.0.0.1:8802/",
        "http://127.0.0.2:8801/",
        "http://simulator:81/",
        "http://127.1:8801/",
    ):
        with pytest.raises(EgressRefused):
            parse_url(url, allow_hosts=allow)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::200e", "::ffff:8.8.8.8"]
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


# -- with a listener that must not be touched ------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        ["fe80::1%eth0"],
        ["not an address"],
    ],
)
def test_one_private_answer_among_the_resolved_is_enough_to_refuse(
    answering: Any, answers: list[str]
) -> None:
    server = answering(200)
    with pytest.raises(EgressRefused) as caught:
        request(
            "GET",
            f"https://hook.example.com:{server.port}/",
            headers={},
            ports=frozenset({server.port}),
            resolver=lambda host, port: answers,
        )
    assert caught.value.code == "url_forbidden_host"
    assert server.connections == 0


@pytest.mark.parametrize("host", [host for host in HOSTS if host.isascii()])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_forbidden_host_sees_no_connection(answering: Any, scheme: str, host: str) -> None:
    server = answering(200)
    asked: list[str] = []

    def resolver(name: str, port: int) -> Sequence[str]:
        asked.append(name)
        return ["127.0.0.1"]

    with pytest.raises(EgressRefused):
        request(
            "GET",
            f"{scheme}://{host}:{server.port}/",
            headers={},
            ports=frozenset({server.port}),
            resolver=resolver,
        )
    assert server.connections == 0
    assert asked == []


def test_a_name_is_resolved_once_and_the_connection_goes_to_that_answer(answering: Any) -> None:
    server = answering(200, "hello")
    asked: list[str] = []

    def rebinding(name: str, port: int) -> Sequence[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    name = f"provider.example.com:{server.port}"
    response = request(
        "GET", f"http://{name}/x", headers={}, allow_hosts=frozenset({name}), resolver=rebinding
    )
    assert response.body == b"hello"
    assert asked == ["provider.example.com"]
    assert f"Host: {name}".encode() in server.requests[0]


def test_a_dead_address_is_followed_by_the_next_one(answering: Any) -> None:
    server = answering(204)
    name = f"provider.example.com:{server.port}"
    response = request(
        "GET",
        f"http://{name}/",
        headers={},
        allow_hosts=frozenset({name}),
        resolver=lambda host, port: ["127.255.255.254", "127.0.0.1"],
    )
    assert response.status == 204


def test_a_name_without_an_address_was_not_reached() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror("no such name")

    def empty(host: str, port: int) -> Sequence[str]:
        return []

    for resolver in (unknown, empty):
        with pytest.raises(EgressConnectError) as caught:
            request("GET", "https://nowhere.example.com/", headers={}, resolver=resolver)
        assert caught.value.code == "dns"


def test_a_resolver_that_hangs_meets_the_deadline() -> None:
    release = threading.Event()

    def hangs(host: str, port: int) -> Sequence[str]:
        release.wait(PATIENCE)
        return []

    began = time.monotonic()
    with pytest.raises(EgressConnectError) as caught:
        request("GET", "https://slow.example.com/", headers={}, resolver=hangs, timeout=0.2)
    release.set()
    assert caught.value.code == "dns"
    assert time.monotonic() - began < PATIENCE / 2


# -- when an address is saved ----------------------------------------------------------------------


def test_a_name_is_looked_up_before_it_is_saved() -> None:
    look_up("https://api.example.com/v2")
    for url, code in LOOKED_UP.items():
        with pytest.raises((EgressRefused, EgressConnectError)) as caught:
            look_up(url)
        assert caught.value.code == {"url_not_found": "dns"}.get(code, code)


def test_nothing_is_asked_about_an_address_or_an_allowed_host() -> None:
    def nobody(host: str, port: int) -> Sequence[str]:
        raise AssertionError("asked")

    look_up("https://8.8.8.8/", resolver=nobody)
    look_up("http://simulator:81/", allow_hosts=frozenset({"simulator:81"}), resolver=nobody)


def test_a_resolver_that_hangs_does_not_hold_up_a_page() -> None:
    release = threading.Event()

    def hangs(host: str, port: int) -> Sequence[str]:
        release.wait(PATIENCE)
        return []

    began = time.monotonic()
    with pytest.raises(EgressConnectError):
        look_up("https://slow.example.com/", resolver=hangs, timeout=0.1)
    release.set()
    assert time.monotonic() - began < PATIENCE / 2
    assert egress.LOOK_UP_SECONDS <= 3


# -- what is sent ----------------------------------------------------------------------------------


def get(server: Any, **changes: Any) -> egress.EgressResponse:
    values: dict[str, Any] = {"headers": {}, "allow_hosts": frozenset({server.host_port}), **changes}
    return request("GET", f"{server.url}/v2?x=1", **values)


def test_a_request_carries_what_it_was_given_and_little_more(answering: Any) -> None:
    server = answering(200, {"ok": True}, X_Request_ID="r-1")
    response = request(
        "POST",
        f"{server.url}/v2?x=1",
        headers={"X-API-Key": Secret("be_4f1d"), "Content-Type": "application/json"},
        content=b"{}",
        allow_hosts=frozenset({server.host_port}),
    )
    assert (response.status, response.headers["x-request-id"], response.body) == (200, "r-1", b'{"ok": true}')
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = set(head.decode().split("\r\n"))
    assert lines == {
        "POST /v2?x=1 HTTP/1.1",
        f"Host: {server.host_port}",
        "User-Agent: keyturn",
        "Accept: application/json, */*;q=0.5",
        "Accept-Encoding: identity",
        "Connection: close",
        "Content-Length: 2",
        "X-API-Key: be_4f1d",
        "Content-Type: application/json",
    }
    assert body == b"{}"


def test_the_environment_changes_nothing(
    answering: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, proxy = answering(200), answering(502)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert get(server).status == 200
    assert proxy.connections == 0
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-API-Key", "a\r\nX-Evil: 1"),
        ("X-API-Key", "a\nb"),
        ("X-API-Key", "a\x00b"),
        ("X-API-Key", " be_4f1d"),
        ("X-API-Key", "be_4f1d "),
        ("X-API-Key", "käy"),
        ("X-API-Key\r\nX", "a"),
        ("X API Key", "a"),
        ("", "a"),
        ("Host", "evil.example"),
        ("content-length", "0"),
        ("Transfer-Encoding", "chunked"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_without_naming_it(
    answering: Any, name: str, value: str
) -> None:
    server = answering(200)
    with pytest.raises(EgressRefused) as caught:
        get(server, headers={name: Secret(value)})
    assert caught.value.code == "header_invalid"
    assert value == "a" or value.strip() not in str(caught.value)
    assert server.connections == 0


# -- what comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(answering: Any, status: int) -> None:
    elsewhere = answering(200)
    server = answering(status, Location=f"{elsewhere.url}/stolen")
    allow = frozenset({server.host_port, elsewhere.host_port})
    response = get(server, headers={"X-API-Key": Secret("be_4f1d")}, allow_hosts=allow)
    assert response.status == status
    assert elsewhere.connections == 0
    assert server.connections == 1


def test_an_answer_of_one_mebibyte_passes_and_a_byte_more_does_not(answering: Any) -> None:
    assert len(get(answering(200, b"x" * 1_048_576)).body) == 1_048_576
    with pytest.raises(EgressInterrupted) as caught:
        get(answering(200, b"x" * 1_048_577))
    assert caught.value.code == "answer_too_large"


def test_a_packed_answer_is_not_unpacked(answering: Any) -> None:
    bomb = gzip.compress(bytes(64 * 1_048_576))
    response = get(answering(200, bomb, Content_Encoding="gzip"))
    assert response.body == bomb
    assert len(bomb) < 100_000


def test_an_endless_answer_is_cut(raw_server: Any) -> None:
    sent = []

    def flood(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stopping.is_set():
            connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            sent.append(65_536)

    with pytest.raises(EgressInterrupted) as caught:
        get(raw_server(flood))
    assert caught.value.code == "answer_too_large"
    assert sum(sent) < 32 * 1_048_576


def test_an_endless_head_is_cut(raw_server: Any) -> None:
    def flood(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stopping.is_set():
            connection.sendall(b"X-Pad: " + b"x" * 4_000 + b"\r\n")

    with pytest.raises(EgressInterrupted):
        get(raw_server(flood))


def drip(head: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """After this head, a byte every 20 ms, and for long: no single read ever waits."""

    def talk(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(head)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if stopping.wait(0.02):
                return
            connection.sendall(b"x")

    return talk


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", id="body"),
    ],
)
def test_a_dripping_answer_meets_the_total_deadline(raw_server: Any, head: bytes) -> None:
    began = time.monotonic()
    with pytest.raises((EgressTimeout, EgressInterrupted)) as caught:
        get(raw_server(drip(head)), timeout=SHORT)
    assert time.monotonic() - began < PATIENCE / 2
    if head:
        assert caught.value.code == "timeout"


def test_silence_meets_the_total_deadline(raw_server: Any) -> None:
    with pytest.raises(EgressTimeout) as caught:
        get(raw_server(lambda connection, stopping: stopping.wait(PATIENCE)), timeout=SHORT)
    assert caught.value.code == "timeout"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_cut_or_malformed_answer_is_interrupted(raw_server: Any, data: bytes) -> None:
    with pytest.raises(EgressInterrupted) as caught:
        get(raw_server(lambda connection, _: connection.sendall(data)))
    assert caught.value.code == "cut"


def test_an_error_carries_no_other_exception_with_it(raw_server: Any) -> None:
    with pytest.raises(EgressInterrupted) as caught:
        get(raw_server(lambda *_: None), headers={"X-API-Key": Secret("be_4f1d")})
    assert caught.value.__context__ is None


def test_threads_and_sockets_are_given_back(answering: Any) -> None:
    server = answering(200)
    get(server)
    before = {thread.name for thread in threading.enumerate() if isinstance(thread, threading.Timer)}
    for _ in range(5):
        get(server)
    after = {thread.name for thread in threading.enumerate() if isinstance(thread, threading.Timer)}
    assert after == before == set()
