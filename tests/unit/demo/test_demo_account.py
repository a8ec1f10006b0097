"""How an instance behaves towards Keyturn, against a server that answers as the HTTP contract says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from keyvault.project.demo.cast import DemoKey
from keyvault.project.demo.instances import Account, Consumer
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.uses import RemovitUse
from keyvault.project.demo.wire import Wire
from rotation.simulators import RunningSimulator, running
from rotation.simulators.wire import Answer, Cut, Request, Response, Server, json_response

pytestmark = pytest.mark.once

KEY = DemoKey("removit")


class Contract:
    """Delivers one version and keeps the reports; what it answers next can be set."""

    def __init__(self, base_url: str, secrets: dict[int, Secret]) -> None:
        self.base_url, self.secrets = base_url, secrets
        self.version = 1
        self.keeps_jobs = False
        self.fetches: list[Request] = []
        self.reports: list[dict[str, Any]] = []
        self.report_answer: Callable[[], Answer] = lambda: json_response(202, {})

    def given(self) -> int:
        """The version that is asked for now; who has a job open under version 1 keeps that."""
        lines = [line for report in self.reports for line in report["versions"] if line["version"] == 1]
        opened, closed = (sum(line.get(name, 0) for line in lines) for name in ("jobs_opened", "jobs_closed"))
        return 1 if self.keeps_jobs and opened > closed else self.version

    def respond(self, request: Request) -> Answer:
        if request.path == f"{KEY.path}reports/":
            self.reports.append(request.json() or {})
            return self.report_answer()
        self.fetches.append(request)
        version = self.given()
        etag = f'"v{version}"'
        if request.headers.get("if-none-match") == etag:
            return Response(304, headers={"ETag": etag})
        body = {
            "version": version,
            "key": self.secrets[version].expose(),
            "auth": {"header": "X-API-Key", "scheme": "", "base_url": self.base_url},
            "refresh_after": 300,
        }
        return json_response(200, body, {"ETag": etag})


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running(KEY.provider) as started:
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
    account = Account(Wire(keyturn), consumer, "web-shop-1", KEY, RemovitUse(), ledger, refresh=0.0)
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
    assert ledger.holders(KEY.name, 2) == ["web-shop/web-shop-1"]
    assert ledger.totals(KEY.name).failed <= 1


def test_the_failed_request_counts_although_the_next_one_works(
    account: Account, simulator: RunningSimulator, ledger: Ledger, contract: Contract
) -> None:
    account.turn()
    simulator.control.set_fault(reject_key_id=simulator.control.keys()[0].id)
    account.turn()
    contract.version = 2
    account.turn()
    account.turn()
    (failure,) = ledger.failures(KEY.name, 1)
    assert (failure.instance, failure.status, failure.outcome) == ("web-shop/web-shop-1", 401, "auth_invalid")
    assert ledger.totals(KEY.name, without_version=1).failed == 0


def test_a_refused_key_is_not_hammered(account: Account, simulator: RunningSimulator, ledger: Ledger) -> None:
    account.turn()
    account._pause = 3600.0  # seconds, so that it is not over before the last turn
    simulator.control.set_fault(reject_key_id=simulator.control.keys()[0].id)
    for _ in range(20):
        account.turn()
    assert ledger.totals(KEY.name).failed == 1


def test_without_keyturn_the_held_key_goes_on_working(
    account: Account, contract: Contract, ledger: Ledger
) -> None:
    account.turn()
    account.close()
    account._keyturn = Wire("http://127.0.0.1:9")
    account.turn()
    assert ledger.totals(KEY.name).requests == 2
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
    (failure,) = ledger.failures(KEY.name, 1)
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
    assert [failure.outcome for failure in ledger.failures(KEY.name)] == ["auth_invalid"]


def test_whose_asks_all_fall_into_an_open_job_moves_on_once_it_is_closed(
    keyturn: str, contract: Contract, ledger: Ledger
) -> None:
    consumer = Consumer("web-shop", Secret("ktc_prod_x"))
    rarely = Account(Wire(keyturn), consumer, "web-shop-1", KEY, RemovitUse(), ledger, refresh=3600.0)
    rarely.turn()
    contract.keeps_jobs, contract.version = True, 2
    rarely.report()
    rarely.fetch()  # when it is time to ask, a job is open: the key before is given
    assert ledger.holders(KEY.name, 1) == ["web-shop/web-shop-1"]
    for _ in range(4):  # the job is asked for twice, then the next one begins
        rarely.turn()
    rarely.close()
    assert ledger.holders(KEY.name, 2) == ["web-shop/web-shop-1"]
    assert ledger.totals(KEY.name).failed == 0


def test_one_that_does_not_ask_goes_on_with_what_it_holds_and_says_so(
    account: Account, contract: Contract, ledger: Ledger
) -> None:
    account.turn()
    contract.version, account.asks = 2, False
    for _ in range(4):
        account.turn()
    assert len(contract.fetches) == 1
    assert {line["version"] for report in contract.reports for line in report["versions"]} == {1}
    account.asks = True
    account.fetch()
    assert ledger.holders(KEY.name, 2) == ["web-shop/web-shop-1"]
