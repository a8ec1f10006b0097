"""The http driver when the provider misbehaves: what was done, what was not, and what nobody can know."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from rotation.drivers.base import (
    DriverError,
    IssueRequest,
    NeedsPerson,
    OutcomeUnknown,
    ProviderSpec,
    QuotaReached,
    Refused,
    Throttled,
    Unavailable,
)
from rotation.drivers.http import HttpDriver, check_config
from rotation.simulators import RunningSimulator, management_config, running

pytestmark = pytest.mark.once

REQUEST = IssueRequest(label="keyturn-r7-1", idempotency_key="op-77", environment="prod")
DRIVER = HttpDriver()

SpecOf = Callable[..., ProviderSpec]


@pytest.fixture
def sim() -> Iterator[RunningSimulator]:
    with running("removit") as simulator:
        yield simulator


def test_a_429_names_the_wait(sim: RunningSimulator, spec_of: SpecOf) -> None:
    sim.control.set_fault(retry_after=17, planes=["manage"])
    with pytest.raises(Throttled) as caught:
        DRIVER.issue(spec_of(sim), REQUEST)
    assert caught.value.retry_after == 17.0
    assert sim.control.keys() == []


def test_a_5xx_leaves_the_outcome_unknown(sim: RunningSimulator, spec_of: SpecOf) -> None:
    sim.control.set_fault(error_rate=1.0, error_status=502, planes=["manage"])
    with pytest.raises(OutcomeUnknown, match="502"):
        DRIVER.issue(spec_of(sim), REQUEST)


def test_a_lost_answer_is_unknown_and_the_replay_finds_the_key(
    sim: RunningSimulator, spec_of: SpecOf
) -> None:
    sim.control.set_fault(lose_create_answers=1)
    with pytest.raises(OutcomeUnknown) as caught:
        DRIVER.issue(spec_of(sim), REQUEST)
    assert caught.value.code == "cut"
    (orphan,) = sim.control.keys()
    assert DRIVER.issue(spec_of(sim), REQUEST).provider_key_id == orphan.id
    assert len(sim.control.keys()) == 1


def test_a_lost_answer_without_replay_is_found_by_label(sim: RunningSimulator, spec_of: SpecOf) -> None:
    config = {name: part for name, part in management_config().items() if name != "idempotency_header"}
    spec = spec_of(sim, config=config)
    assert not DRIVER.capabilities(spec).replay
    sim.control.set_fault(lose_create_answers=1)
    with pytest.raises(OutcomeUnknown):
        DRIVER.issue(spec, REQUEST)
    (orphan,) = [key for key in DRIVER.list(spec) if key.label == REQUEST.label]
    DRIVER.revoke(spec, orphan.provider_key_id)
    assert DRIVER.list(spec) == ()


def test_nobody_listens_means_nothing_was_done(spec_for: SpecOf, raw_server: Any) -> None:
    with socket.socket() as free:  # bound, so that it is nobody else's, and without a listener
        free.bind(("127.0.0.1", 0))
        host_port = f"127.0.0.1:{free.getsockname()[1]}"
        spec = spec_for(
            raw_server(lambda *_: None), base_url=f"http://{host_port}", allow_hosts=frozenset({host_port})
        )
        with pytest.raises(Unavailable) as caught:
            DRIVER.issue(spec, REQUEST)
    assert caught.value.code == "connect"


def test_a_full_account_is_a_quota(sim: RunningSimulator, spec_of: SpecOf) -> None:
    sim.control.create_key("somebody's")
    sim.control.set_fault(max_keys=1)
    with pytest.raises(QuotaReached):
        DRIVER.issue(spec_of(sim), REQUEST)
    assert [key.label for key in sim.control.truth.views()] == ["somebody's"]


def test_a_wrong_admin_secret_is_refused(sim: RunningSimulator, spec_of: SpecOf) -> None:
    with pytest.raises(Refused) as caught:
        DRIVER.issue(spec_of(sim, admin_secret=Secret("adm-wrong-2c9e")), REQUEST)
    assert caught.value.code == "admin_refused"


def test_without_an_admin_secret_nothing_is_sent(sim: RunningSimulator, spec_of: SpecOf) -> None:
    with pytest.raises(Refused) as caught:
        DRIVER.issue(spec_of(sim, admin_secret=None), REQUEST)
    assert caught.value.code == "no_admin_secret"


def test_disabling_an_unknown_key_is_refused(sim: RunningSimulator, spec_of: SpecOf) -> None:
    with pytest.raises(Refused, match="404"):
        DRIVER.disable(spec_of(sim), "key_00")


def test_a_provider_that_replaces_kills_the_outgoing_key(sim: RunningSimulator, spec_of: SpecOf) -> None:
    outgoing = sim.control.create_key("outgoing")
    sim.control.set_fault(replaces=True)
    incoming = DRIVER.issue(spec_of(sim), REQUEST)
    assert not sim.control.honours(outgoing.value)
    assert sim.control.honours(incoming.secret)


def test_what_is_not_declared_needs_a_person(sim: RunningSimulator, spec_of: SpecOf) -> None:
    config = {"issue": management_config()["issue"]}
    spec = spec_of(sim, config=config)
    assert not DRIVER.capabilities(spec).revoke
    with pytest.raises(NeedsPerson):
        DRIVER.revoke(spec, "key_00")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"", OutcomeUnknown),
        (201, b"<html>", OutcomeUnknown),
        (201, b"\xff\xfe", OutcomeUnknown),
        (201, b"[" * 100_000, OutcomeUnknown),
        (201, {"id": "k1"}, OutcomeUnknown),
        (201, {"id": "k1", "key": ""}, OutcomeUnknown),
        (201, {"id": "k1", "key": 7}, OutcomeUnknown),
        (201, {"id": "k1", "key": " spaced-5521 "}, OutcomeUnknown),
        (201, {"id": "k1", "key": "YOUR_API_KEY"}, OutcomeUnknown),
        (201, {"key": "rmv_9f3c81d2aa"}, OutcomeUnknown),
        (201, {"id": "", "key": "rmv_9f3c81d2aa"}, OutcomeUnknown),
        (201, {"id": True, "key": "rmv_9f3c81d2aa"}, OutcomeUnknown),
        (201, {"id": "a\nb", "key": "rmv_9f3c81d2aa"}, OutcomeUnknown),
        (201, {"id": "x" * 256, "key": "rmv_9f3c81d2aa"}, OutcomeUnknown),
        (303, b"", OutcomeUnknown),
        (408, b"", OutcomeUnknown),
        (409, b"", OutcomeUnknown),
        (500, {"key": "rmv_9f3c81d2aa", "id": "k1"}, OutcomeUnknown),
        (301, b"", Refused),
        (400, b"", Refused),
        (401, b"", Refused),
        (403, b"", Refused),
        (404, b"", Refused),
        (422, b"not json", Refused),
        (403, {"error": {"code": "quota_exceeded"}}, QuotaReached),
        (422, {"error": "key_limit_reached"}, QuotaReached),
        (429, {"error": "slow down"}, Throttled),
    ],
)
def test_every_odd_answer_to_issue_has_one_meaning(
    answering: Any, spec_for: SpecOf, status: int, body: Any, error: type[DriverError]
) -> None:
    with pytest.raises(DriverError) as caught:
        DRIVER.issue(spec_for(answering(status, body)), REQUEST)
    assert type(caught.value) is error
    assert "rmv_9f3c81d2aa" not in f"{caught.value} {caught.value.message}"


def test_a_number_is_an_id(answering: Any, spec_for: SpecOf) -> None:
    issued = DRIVER.issue(spec_for(answering(201, {"id": 4711, "key": "rmv_9f3c81d2aa"})), REQUEST)
    assert issued.provider_key_id == "4711"


@pytest.mark.parametrize("status", [200, 202, 204, 404, 410])
def test_a_revoke_is_done_when_the_key_is_gone(answering: Any, spec_for: SpecOf, status: int) -> None:
    server = answering(status)
    DRIVER.revoke(spec_for(server), "k1")
    assert server.requests[0].startswith(b"DELETE /_manage/keys/k1 HTTP/1.1\r\n")


@pytest.mark.parametrize(("status", "error"), [(400, Refused), (409, Refused), (500, OutcomeUnknown)])
def test_a_revoke_that_failed_is_no_success(
    answering: Any, spec_for: SpecOf, status: int, error: type
) -> None:
    with pytest.raises(error):
        DRIVER.revoke(spec_for(answering(status)), "k1")


def test_what_is_sent(answering: Any, spec_for: SpecOf) -> None:
    server = answering(201, {"data": {"token": "rmv_9f3c81d2aa", "ids": ["k1"]}})
    config = {
        "issue": {
            "method": "PUT",
            "path": "/v2/{environment}/keys?name={label}",
            "headers": {"X-Version": "3"},
            "body": '{"name": "{label}", "tags": ["{environment}", "\\u007bx"], "n": 1}',
            "secret": "/data/token",
            "id": "/data/ids/0",
        },
        "idempotency_header": "X-Once",
        "admin_header": "X-Admin",
        "admin_scheme": "",
    }
    issued = DRIVER.issue(
        spec_for(server, config=config), IssueRequest('keyturn-"r7"/../{id}', "op-77", "prod")
    )
    assert issued.provider_key_id == "k1"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "PUT /v2/prod/keys?name=keyturn-%22r7%22%2F..%2F%7Bid%7D HTTP/1.1"
    assert {"X-Version: 3", "X-Once: op-77", "X-Admin: adm-0e1b7c55d9aa4f62"} <= set(lines)
    assert json.loads(body) == {"name": 'keyturn-"r7"/../{id}', "tags": ["prod", "{x"], "n": 1}


@pytest.mark.parametrize("key_id", ["", ".", ".."])
def test_an_id_cannot_climb_out_of_its_path(answering: Any, spec_for: SpecOf, key_id: str) -> None:
    server = answering(204)
    with pytest.raises(Refused) as caught:
        DRIVER.revoke(spec_for(server), key_id)
    assert caught.value.code == "bad_id"
    assert server.connections == 0


def test_a_slash_in_an_id_stays_inside_its_segment(answering: Any, spec_for: SpecOf) -> None:
    server = answering(204)
    DRIVER.revoke(spec_for(server), "../../admin?x=1#y")
    assert server.requests[0].startswith(b"DELETE /_manage/keys/..%2F..%2Fadmin%3Fx%3D1%23y HTTP/1.1\r\n")


def test_a_list_keeps_keys_of_others_without_a_label(answering: Any, spec_for: SpecOf) -> None:
    server = answering(200, {"keys": [{"id": 1, "name": "ours"}, {"id": 2}, {"id": 3, "name": None}]})
    assert [(key.provider_key_id, key.label) for key in DRIVER.list(spec_for(server))] == [
        ("1", "ours"),
        ("2", ""),
        ("3", ""),
    ]


@pytest.mark.parametrize("body", [{"keys": {}}, {"keys": [{"name": "no id"}]}, {}, b"[]"])
def test_an_unreadable_list_is_not_an_empty_list(answering: Any, spec_for: SpecOf, body: Any) -> None:
    with pytest.raises(OutcomeUnknown):
        DRIVER.list(spec_for(answering(200, body)))


def test_an_echo_of_the_secrets_reaches_no_message(raw_server: Any, spec_for: SpecOf) -> None:
    def echo(connection: socket.socket, _: threading.Event) -> None:
        text = json.dumps({"error": "adm-0e1b7c55d9aa4f62", "message": "adm-0e1b7c55d9aa4f62"}).encode()
        connection.sendall(
            b"HTTP/1.1 400 adm-0e1b7c55d9aa4f62\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        )

    with pytest.raises(Refused) as caught:
        DRIVER.issue(spec_for(raw_server(echo)), REQUEST)
    shown = f"{caught.value!r} {caught.value} {caught.value.__context__!r}"
    assert "adm-0e1b7c55d9aa4f62" not in shown


def test_the_example_configuration_has_no_problem() -> None:
    assert check_config(management_config()) == []
    assert check_config({}) == []


REVOKE = {"method": "DELETE", "path": "/keys/{id}"}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ([], "must be an object"),
        ({"isue": {}}, "unknown field 'isue'"),
        ({"admin_secret": "x"}, "admin_secret must not be stored"),
        ({"revoke": "DELETE /keys"}, "revoke must be an object"),
        ({"revoke": {**REVOKE, "verb": "x"}}, "revoke: unknown field 'verb'"),
        ({"revoke": {**REVOKE, "method": "delete"}}, "revoke.method"),
        ({"revoke": {"method": "DELETE"}}, "revoke.path"),
        ({"revoke": {**REVOKE, "path": "keys/{id}"}}, "revoke.path"),
        ({"revoke": {**REVOKE, "path": "//evil.example/{id}"}}, "revoke.path"),
        ({"revoke": {**REVOKE, "path": "/keys/{id} HTTP/1.1"}}, "revoke.path"),
        ({"revoke": {**REVOKE, "path": "/keys\\{id}"}}, "revoke.path"),
        ({"revoke": {**REVOKE, "path": "/keys"}}, "revoke must use {id}"),
        ({"revoke": {**REVOKE, "path": "/keys/{id}/{label}"}}, "{label} has no value there"),
        ({"revoke": {**REVOKE, "body": "not json"}}, "revoke.body must be JSON"),
        ({"revoke": {**REVOKE, "body": 7}}, "revoke.body must be a JSON object"),
        ({"revoke": {**REVOKE, "headers": {"X": "a\r\nb"}}}, "revoke.headers"),
        ({"revoke": {**REVOKE, "headers": {"X y": "a"}}}, "revoke.headers"),
        ({"disable": REVOKE}, "disable needs enable"),
        ({"issue": {"method": "POST", "path": "/keys", "id": "/id"}}, "issue.secret"),
        ({"issue": {"method": "POST", "path": "/keys", "id": "id", "secret": "/key"}}, "issue.id"),
        ({"issue": {"method": "POST", "path": "/keys", "id": "/a~2", "secret": "/key"}}, "issue.id"),
        (
            {"issue": {"method": "POST", "path": "/keys/{id}", "id": "/id", "secret": "/key"}},
            "{id} has no value",
        ),
        ({"list": {"method": "GET", "path": "/keys", "items": "/keys", "id": "/id"}}, "list.label"),
        ({"idempotency_header": "Idempotency Key"}, "idempotency_header"),
        ({"admin_header": None}, "admin_header"),
        ({"admin_scheme": "Bearer x"}, "admin_scheme"),
        ({"quota_codes": "full"}, "quota_codes"),
    ],
)
def test_a_bad_configuration_is_named(config: Any, problem: str) -> None:
    assert any(problem in found for found in check_config(config)), check_config(config)


def test_a_bad_configuration_is_never_used(answering: Any, spec_for: SpecOf) -> None:
    server = answering(204)
    with pytest.raises(Refused) as caught:
        DRIVER.revoke(spec_for(server, config={"revoke": {"method": "DELETE", "path": "/keys"}}), "k1")
    assert caught.value.code == "bad_config"
    assert server.connections == 0
