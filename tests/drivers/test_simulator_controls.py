"""That the simulators hold the truth, count, fail as told, and can be managed."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from rotation.simulators import (
    SIMULATORS,
    ControlError,
    RunningSimulator,
    SimulatorClient,
    management_config,
    running,
)
from tests.drivers.calls import OPEN, Start, call, new_key, use

pytestmark = pytest.mark.once


def test_every_simulator_is_asked() -> None:
    assert set(OPEN) == set(SIMULATORS)


def test_every_request_is_counted_under_its_key(simulator: RunningSimulator) -> None:
    client = SimulatorClient(simulator.base_url)
    made, idle = client.create_key("ours"), client.create_key("idle")
    for _ in range(3):
        assert use(simulator, made.value.expose()).status in (400, 404)
    use(simulator, "wrong")
    method, path, *_ = OPEN[simulator.control.slug]
    call(simulator, method, path)
    client.revoke(made.id)
    assert use(simulator, made.value.expose()).status == 401
    counters = client.counters()
    mine = counters["keys"][made.id]
    assert (mine["requests"], mine["4xx"], mine["2xx"], mine["after_refusal"]) == (4, 4, 0, 1)
    assert mine["statuses"]["401"] == 1
    assert (counters["unknown_key"], counters["no_key"], counters["total"]) == (1, 1, 6)
    assert counters["keys"][idle.id]["last_used_at"] is None
    views = {view.id: view for view in simulator.control.truth.views()}
    assert sorted(views) == sorted(item.id for item in client.keys())  # noqa: SIM118 - not a dict
    assert (views[made.id].state, views[made.id].live, views[idle.id].live) == ("revoked", False, True)
    assert views[made.id].last_used_at is not None


def test_counting_loses_nothing_under_threads(simulator: RunningSimulator) -> None:
    made = simulator.control.create_key("ours")

    def burst(_: int) -> None:
        for _ in range(25):
            use(simulator, made.value.expose())

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(burst, range(12)))
    counted: Any = simulator.control.counters()
    assert counted["keys"][made.id]["requests"] == 300


def test_a_key_can_start_to_be_rejected_and_recover(simulator: RunningSimulator) -> None:
    client = SimulatorClient(simulator.base_url)
    first, second = client.create_key("a"), client.create_key("b")
    client.set_fault(reject_key_id=first.id)
    assert use(simulator, first.value.expose()).status == 401
    assert use(simulator, second.value.expose()).status in (400, 404)
    assert (client.honours(first.value), client.honours(second.value)) == (False, True)
    client.clear_faults()
    assert client.honours(first.value)


def test_errors_are_spread_evenly(simulator: RunningSimulator) -> None:
    key = new_key(simulator)
    simulator.control.set_fault(error_rate=0.25, error_status=502)
    statuses = [use(simulator, key).status for _ in range(20)]
    assert statuses.count(502) == 5


def test_a_throttled_request_names_the_wait(simulator: RunningSimulator) -> None:
    simulator.control.set_fault(retry_after=7)
    reply = use(simulator, new_key(simulator))
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")


def test_a_timeout_cuts_the_request_and_counts_it(simulator: RunningSimulator) -> None:
    made = simulator.control.create_key("ours")
    simulator.control.set_fault(timeout=0.05)
    with pytest.raises((HTTPException, OSError)):
        use(simulator, made.value.expose())
    simulator.control.clear_faults()
    assert use(simulator, made.value.expose()).status in (400, 404)
    counted: Any = simulator.control.counters()
    assert counted["keys"][made.id]["cut"] == 1


def test_a_late_revocation_leaves_the_key_alive_for_a_while() -> None:
    now = [1_000.0]
    with running("removit", clock=lambda: now[0]) as sim:
        sim.control.set_fault(revoke_delay=30)
        made = sim.control.create_key("ours")
        sim.control.revoke(made.id)
        assert sim.control.truth.views()[0].state == "revoked"
        now[0] += 29.9
        assert use(sim, made.value.expose()).status == 404
        now[0] += 0.1
        assert use(sim, made.value.expose()).status == 401


def test_a_quota_counts_keys_that_are_not_revoked(simulator: RunningSimulator) -> None:
    client = SimulatorClient(simulator.base_url)
    first = client.create_key("a")
    client.set_fault(max_keys=1)
    with pytest.raises(ControlError) as caught:
        client.create_key("b")
    assert caught.value.status == 409
    client.revoke(first.id)
    assert client.create_key("c").id


def test_an_account_that_replaces_kills_the_key_before(simulator: RunningSimulator) -> None:
    simulator.control.set_fault(replaces=True)
    first = simulator.control.create_key("a")
    second = simulator.control.create_key("b")
    assert not simulator.control.honours(first.value)
    assert simulator.control.honours(second.value)


def test_a_lapsed_plan_stops_every_key(simulator: RunningSimulator) -> None:
    key = new_key(simulator)
    simulator.control.set_fault(plan_lapsed=True)
    assert use(simulator, key).status == (401 if simulator.control.slug == "backgrounderase" else 403)
    assert not simulator.control.honours(Secret(key))


def test_a_fault_that_does_not_exist_is_refused(simulator: RunningSimulator) -> None:
    client = SimulatorClient(simulator.base_url)
    odd: list[dict[str, object]] = [
        {"earthquake": True},
        {"error_rate": "all"},
        {"max_keys": -1},
        {"replaces": 1},
    ]
    for fault in odd:
        with pytest.raises(ControlError) as caught:
            client.set_fault(**fault)
        assert caught.value.status == 400
    assert client.faults()["max_keys"] is None


def test_a_connection_serves_many_requests(simulator: RunningSimulator) -> None:
    key = new_key(simulator)
    method, path, header, form = OPEN[simulator.control.slug]
    connection = HTTPConnection(simulator.host_port, timeout=60)
    connection.connect()
    socket_before = connection.sock
    for _ in range(3):
        connection.request(method, path, headers={header.replace("_", "-"): form.format(key)})
        connection.getresponse().read()
    assert connection.sock is socket_before
    connection.close()


# -- the management API -----------------------------------------------------------------------------------


@pytest.fixture(params=["removit", "removebgvideo", "backgroundcut"])
def managed(request: pytest.FixtureRequest, start: Start) -> RunningSimulator:
    return start(request.param)


def admin(sim: RunningSimulator, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sim.admin_secret.expose()}", **more}


def test_management_wants_the_admin_secret_and_not_a_key(managed: RunningSimulator) -> None:
    key = new_key(managed)
    for headers in ({}, {"Authorization": f"Bearer {key}"}, {"X_API_Key": managed.admin_secret.expose()}):
        assert call(managed, "GET", "/_manage/keys", **headers).status == 401
    assert SimulatorClient(managed.base_url).admin_secret() == managed.admin_secret


def test_management_makes_lists_disables_and_revokes(managed: RunningSimulator) -> None:
    made = call(managed, "POST", "/_manage/keys", {"name": "keyturn-r1-1"}, **admin(managed))
    assert made.status == 201
    key, secret = made.json["id"], Secret(made.json["key"])
    listed = call(managed, "GET", "/_manage/keys", **admin(managed))
    assert [(item["id"], item["name"]) for item in listed.json["keys"]] == [(key, "keyturn-r1-1")]
    assert secret.expose() not in listed.body.decode()
    for method, path, honoured in (
        ("POST", f"/_manage/keys/{key}/disable", False),
        ("POST", f"/_manage/keys/{key}/enable", True),
        ("DELETE", f"/_manage/keys/{key}", False),
    ):
        assert call(managed, method, path, **admin(managed)).status == 204
        assert managed.control.honours(secret) is honoured
    assert call(managed, "DELETE", f"/_manage/keys/{key}", **admin(managed)).status == 404
    assert call(managed, "GET", "/_manage/keys", **admin(managed)).json == {"keys": [], "next": None}


def test_management_replays_an_idempotent_create(managed: RunningSimulator) -> None:
    headers = admin(managed, Idempotency_Key="op-1")
    first = call(managed, "POST", "/_manage/keys", {"name": "a"}, **headers)
    again = call(managed, "POST", "/_manage/keys", {"name": "a"}, **headers)
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["idempotent-replayed"] == "true"
    assert call(managed, "POST", "/_manage/keys", {"name": "b"}, **headers).status == 422
    assert len(managed.control.keys()) == 1


def test_management_makes_one_key_for_many_simultaneous_creates(managed: RunningSimulator) -> None:
    headers = admin(managed, Idempotency_Key="op-1")
    barrier = threading.Barrier(8)

    def create(_: int) -> str:
        barrier.wait(60)
        return str(call(managed, "POST", "/_manage/keys", {"name": "a"}, **headers).json["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(8)))) == 1


def test_management_can_lose_the_answer_to_a_create(managed: RunningSimulator) -> None:
    managed.control.set_fault(lose_create_answers=1)
    with pytest.raises((HTTPException, OSError)):
        call(managed, "POST", "/_manage/keys", {"name": "a"}, **admin(managed))
    assert [view.label for view in managed.control.truth.views()] == ["a"]
    assert call(managed, "POST", "/_manage/keys", {"name": "b"}, **admin(managed)).status == 201


def test_faults_strike_the_plane_they_are_meant_for(managed: RunningSimulator) -> None:
    key = new_key(managed)
    managed.control.set_fault(error_rate=1.0, planes=["manage"])
    assert use(managed, key).status in (400, 404)
    assert call(managed, "GET", "/_manage/keys", **admin(managed)).status == 503
    managed.control.set_fault(planes=["data"])
    assert use(managed, key).status == 503
    assert call(managed, "GET", "/_manage/keys", **admin(managed)).status == 200


def test_the_configuration_for_the_http_driver_is_plain_data() -> None:
    assert json.loads(json.dumps(management_config())) == management_config()


# -- as a process of its own ------------------------------------------------------------------------------


def test_all_four_run_as_one_process_and_stop_when_told() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rotation.simulators"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        assert set(addresses) == set(SIMULATORS)
        for address in addresses.values():
            client = SimulatorClient(address)
            assert client.honours(client.create_key("ours").value)
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()
