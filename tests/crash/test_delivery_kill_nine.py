"""kill -9 under load: every key that a consumer has received completely has its record, whatever dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyvault.models import Delivery
from tests.api.delivery.world import build
from tests.conftest import Tell
from tests.installations import Installation, Web, web
from tests.integration.plain_http import End
from tests.integration.processes import DEADLINE
from tests.load import Load, Question

pytestmark = pytest.mark.serial

WORKERS = 6
AT_ONCE = 2
# The file of SQLite has one writer at a time, so that less of it is under load; the promise is the same.
KILLS = {"postgresql": 500, "sqlite": 60}
CONNECTIONS = 12
ANSWERS_BETWEEN = 6
# Processes that start fast; what is promised does not depend on it.
SMALL = {"KEYTURN_DATABASE_POOL": "0", "KEYTURN_WEB_THREADS": "1"}


@dataclass
class Killer:
    """Kills worker processes under load, as fast as they come back."""

    web: Web
    load: Load
    kills: int = 0

    def kill(self, count: int) -> None:
        """The oldest ones: the server gives up where a fresh one dies at once again and again."""
        while self.kills < count:
            before, workers = self.load.whole, self._workers()
            for pid in workers[:AT_ONCE]:
                os.kill(pid, signal.SIGKILL)
            self.kills += AT_ONCE
            self._wait_for_successors(set(workers[:AT_ONCE]), before)

    def _workers(self) -> list[int]:
        """In the order in which they were started; a look that costs next to nothing."""
        assert self.web.process is not None
        pid = self.web.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _wait_for_successors(self, killed: set[int], before: int) -> None:
        deadline, pause = time.monotonic() + DEADLINE, threading.Event()
        while True:
            assert not self.web.ended(), self.web.installation.log.read_text()[-3000:]
            assert time.monotonic() < deadline, "nobody comes back"
            workers = self._workers()
            there = len(workers) == WORKERS and not killed & set(workers)
            if there and self.load.whole >= before + ANSWERS_BETWEEN:
                return
            pause.wait(0.002)


def unrecorded(load: Load) -> set[str]:
    """The request ids of received keys that are not in the database."""
    return load.with_key() - set(Delivery.objects.values_list("request_id", flat=True))


def cut_off(load: Load) -> int:
    """Requests that somebody was at work on when it died."""
    return sum(1 for answer in load.answers if answer.exchange.end in (End.NOTHING, End.TRUNCATED))


def test_no_kill_of_a_worker_under_load_loses_a_record(
    installation: Installation,
    free_port: int,
    database_vendor: str,
    tell: Tell,
) -> None:
    kills = KILLS[database_vendor]
    with web(installation, free_port, workers=WORKERS, settings=SMALL) as server:
        worlds = [build(server.server) for _ in range(4)]
        questions = [
            Question("", f"{world.path}?instance=web-{n}", world.token) for n, world in enumerate(worlds)
        ]
        with Load(free_port, lambda n: questions[n % len(questions)], CONNECTIONS) as load:
            load.more(CONNECTIONS)
            killer = Killer(server, load)
            killer.kill(kills)
            load.more(CONNECTIONS)
    received, rows, lost = load.with_key(), Delivery.objects.count(), unrecorded(load)
    counted = {"kills": killer.kills, "answers": len(received), "cut off": cut_off(load), "rows": rows}
    tell("kill -9 of web workers", {**counted, "unrecorded": len(lost)})
    assert lost == set()
    assert killer.kills >= kills
    assert cut_off(load) >= kills / 2, "most kills must hit somebody at work"
    assert {answer.status for answer in load.answers if answer.whole} == {200}
    assert rows <= len(received) + cut_off(load), "nothing is recorded twice"
