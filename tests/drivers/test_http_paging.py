"""A list of keys that comes in pages: all of it or nothing."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from keyvault.crypto.secret import Secret
from rotation.drivers.base import OutcomeUnknown, ProviderSpec
from rotation.drivers.http import HttpDriver, check_config
from rotation.simulators import RunningSimulator, management_config, running

pytestmark = pytest.mark.once

DRIVER = HttpDriver()
SpecOf = Callable[..., ProviderSpec]


@pytest.fixture
def sim() -> Iterator[RunningSimulator]:
    with running("removit") as simulator:
        yield simulator


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, None])
def test_every_page_is_read(sim: RunningSimulator, spec_of: SpecOf, size: int | None) -> None:
    made = [sim.control.create_key(f"key-{n}").id for n in range(7)]
    sim.control.set_fault(page_size=size)
    assert [entry.provider_key_id for entry in DRIVER.list(spec_of(sim))] == made


def test_half_a_list_is_no_list(sim: RunningSimulator, spec_of: SpecOf) -> None:
    for n in range(4):
        sim.control.create_key(f"key-{n}")
    sim.control.set_fault(page_size=1, error_rate=0.3, planes=["manage"])
    with pytest.raises(OutcomeUnknown, match="503"):
        DRIVER.list(spec_of(sim))


def _server(raw_server: Any, answer: Callable[[str], dict[str, object]]) -> Any:
    def talk(connection: Any, stopping: Any) -> None:
        target = server.requests[-1].split(b" ")[1].decode()
        after = parse_qs(urlsplit(target).query).get("after", [""])[0]
        body = json.dumps(answer(after)).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    server = raw_server(talk)
    return server


def _spec(server: Any, spec_for: SpecOf) -> ProviderSpec:
    return spec_for(
        server,
        base_url=server.url,
        allow_hosts=frozenset({server.host_port}),
        config=management_config(),
        admin_secret=Secret("adm-7f2c9e"),
    )


@pytest.mark.parametrize("cursor", ["again", True, {"at": 2}, "x" * 600])
def test_a_cursor_that_leads_nowhere_ends_in_an_error(
    spec_for: SpecOf, raw_server: Any, cursor: object
) -> None:
    server = _server(raw_server, lambda after: {"keys": [], "next": cursor})
    with pytest.raises(OutcomeUnknown):
        DRIVER.list(_spec(server, spec_for))
    assert server.connections <= 2


def test_a_list_without_end_is_given_up(spec_for: SpecOf, raw_server: Any) -> None:
    server = _server(raw_server, lambda after: {"keys": [], "next": int(after or 0) + 1})
    with pytest.raises(OutcomeUnknown, match="does not end"):
        DRIVER.list(_spec(server, spec_for))
    assert server.connections == 200


def test_a_cursor_cannot_change_the_request(spec_for: SpecOf, raw_server: Any) -> None:
    bad = "a&admin=1#/../x y"
    server = _server(raw_server, lambda after: {"keys": [], "next": None if after else bad})
    assert DRIVER.list(_spec(server, spec_for)) == ()
    assert server.requests[1].split(b" ")[1] == b"/_manage/keys?after=a%26admin%3D1%23%2F..%2Fx%20y"


@pytest.mark.parametrize(
    ("paging", "problem"),
    [
        ({"next": "/next"}, "belong together"),
        ({"cursor": "after"}, "belong together"),
        ({"next": "next", "cursor": "after"}, "JSON Pointer"),
        ({"next": "", "cursor": "after"}, "JSON Pointer"),
        ({"next": "/next", "cursor": "a&b"}, "query parameter"),
    ],
)
def test_paging_that_cannot_be_used_is_named(paging: dict[str, str], problem: str) -> None:
    config: dict[str, Any] = management_config()
    config["list"] = {k: v for k, v in config["list"].items() if k not in ("next", "cursor")} | paging
    (found,) = check_config(config)
    assert problem in found


def test_only_a_list_comes_in_pages() -> None:
    config: dict[str, Any] = management_config()
    config["revoke"] = {**config["revoke"], "next": "/next", "cursor": "after"}
    assert check_config(config)
