"""How an instance behaves towards Keyturn, against a server that answers as the HTTP contract says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from keyvault.project.demo.instances import Account, Consumer
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.uses import RemovitUse
from keyvault.project.demo.wire import Wire
from rotation.simulators import RunningSimulator, running
from rotation.simulators.wire import Answer, Cut, Request, Response, Server, json_response

pytestmark = pytest.mark.once

PATH = "/v1/keys/photo-cleanup/prod/"


class Contract:
    """Delivers one version and keeps the reports; what it answers next can be set."""

    def __init__(self, base_url: str, secrets: dict[int, Secret]) -> None:
        self.base_url, self.secrets = base_url, secrets
        self.version = 1
        self.fetches: list[Request] = []
        self.reports: list[dict[str, Any]] = []
        self.report_answer: Callable[[], Answer] = lambda: json_response(202, {})

    def respond(self, request: Request) -> Answer:
        if request.path == f"{PATH}reports/":
            self.reports.append(request.json() or {})
            return self.report_answer()
        self.fetches.append(request)
        etag = f'"v{self.version}"'
        if request.headers.get("if-none-match") == etag:
            return Response(304, headers={"ETag": etag})
        body = {
            "version": self.version,
            "key": self.secrets[self.version].expose(),
            "auth": {"header": "X-API-Key", "scheme": "", "base_url": self.base_url},
            "refresh_after": 300,
        }
        return json_response(200, body, {"ETag": etag})


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running("removit") as started:
        yield started


@pytest.fixture
def contract(simulator: RunningSimulator) -> Contract:
    made = {number: simulator.control.create_key(f"v{number}").value for number in (1, 2)}
    return Contract(simulator.base_url, made)


@pytest.fixture
def keyturn(contract: Contract) -> Iterator[str]:
    server = Server("127.0.0.1", 0, contract.respond)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def account(keyturn: str, ledger: Ledger) -> Iterator[Account]:
    """An account that asks for its key at every turn."""
    consumer = Consumer("web-shop", Secret("ktc_prod_x"))
    account = Account(Wire(keyturn), consumer, "web-shop-1", PATH, RemovitUse(), ledger, refresh=0.0)
    yield account
    account.close()


def test_it_asks_with_its_token_its_name_and_the_etag_it_holds(account: Account, contract: Contract) -> None:
    account.turn()
    account.turn()
    first, second = contract.fetches
    assert first.headers["x-api-key"] == "ktc_prod_x"
    assert first.query == {"instance": "web-shop-1"}
    assert "if-none-match" not in first.headers
    assert second.headers["if-none-match"] == '"v1"'


def test_it_reports_before_it_asks_again(account: Account, contract: Contract) -> None:
    account.turn()
    account.turn()
    report = contract.reports[0]
    assert (report["instance"], report["sequence"]) == ("web-shop-1", 1)
    assert report["versions"] == [{"version": 1, "credential": "key", "ok": 1, "jobs_opened": 1}]
    assert len(contract.fetches) == 2


def test_each_report_has_the_next_number_and_begins_where_the_last_ended(
    account: Account, contract: Contract
) -> None:
    for _ in range(4):
        account.turn()
    assert [report["sequence"] for report in contract.reports] == [1, 2, 3]
    assert [r["from"] for r in contract.reports[1:]] == [r["to"] for r in contract.reports[:-1]]


def test_a_report_whose_answer_was_lost_is_sent_again_unchanged(account: Account, contract: Contract) -> None:
    account.turn()
    contract.report_answer = Cut
    account.report()
    contract.report_answer = lambda: json_response(202, {})
    account.report()
    account.turn()
    account.report()
    sent = [report["sequence"] for report in contract.reports]
    assert sent[-1] == 2
    assert set(sent[:-1]) == {1}
    assert len({str(report) for report in contract.reports[:-1]}) == 1


def test_it_does_not_ask_for_another_key_while_its_open_job_is_not_known(
    account: Account, contract: Contract
) -> None:
    account.turn()
    contract.report_answer = lambda: json_response(503, {})
    contract.version = 2
    account.turn()
    assert len(contract.fetches) == 1


def test_a_refused_key_is_reported_and_asked_for_again_at_once(
    account: Account, contract: Contract, simulator: RunningSimulator, ledger: Ledger
) -> None:
    account.turn()
    simulator.control.revoke(simulator.control.keys()[0].id)
    contract.version = 2
    before = len(contract.fetches)
    account.turn()
    account.turn()
    assert len(contract.fetches) > before
    assert ledger.holders("removit", 2) == ["web-shop/web-shop-1"]
    assert ledger.totals("removit").failed <= 1


def test_the_failed_request_counts_although_the_next_one_works(
    account: Account, simulator: RunningSimulator, ledger: Ledger, contract: Contract
) -> None:
    account.turn()
    simulator.control.set_fault(reject_key_id=simulator.control.keys()[0].id)
    account.turn()
    contract.version = 2
    account.turn()
    account.turn()
    (failure,) = ledger.failures("removit", 1)
    assert (failure.instance, failure.status, failure.outcome) == ("web-shop/web-shop-1", 401, "auth_invalid")
    assert ledger.totals("removit", without_version=1).failed == 0


def test_a_refused_key_is_not_hammered(account: Account, simulator: RunningSimulator, ledger: Ledger) -> None:
    account.turn()
    simulator.control.set_fault(reject_key_id=simulator.control.keys()[0].id)
    for _ in range(20):
        account.turn()
    assert ledger.totals("removit").failed == 1


def test_without_keyturn_the_held_key_goes_on_working(
    account: Account, contract: Contract, ledger: Ledger
) -> None:
    account.turn()
    account.close()
    account._keyturn = Wire("http://127.0.0.1:9")
    account.turn()
    assert ledger.totals("removit").requests == 2
    assert ledger.unanswered_counts()


def test_a_job_that_another_key_cannot_see_is_a_failure_of_the_version_that_opened_it(
    account: Account, contract: Contract, ledger: Ledger
) -> None:
    account.turn()
    contract.version = 2
    account.report()
    account.fetch()
    account.turn()
    account.report()
    (failure,) = ledger.failures("removit", 1)
    assert (failure.outcome, failure.status) == ("not_found_job", 404)
    assert contract.reports[-1]["versions"] == [
        {"version": 2, "credential": "key", "not_found_job": 1},
        {"version": 1, "credential": "key", "jobs_closed": 1},
    ]


def test_the_job_of_a_refused_key_is_closed_without_asking_for_it(
    account: Account, contract: Contract, ledger: Ledger, simulator: RunningSimulator
) -> None:
    account.turn()
    simulator.control.set_fault(reject_key_id=simulator.control.keys()[0].id)
    account.turn()
    contract.version = 2
    account.fetch()
    account.report()
    assert contract.reports[-1]["versions"] == [{"version": 1, "credential": "key", "jobs_closed": 1}]
    account.turn()
    assert [failure.outcome for failure in ledger.failures("removit")] == ["auth_invalid"]
