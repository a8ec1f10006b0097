"""The broker forgets everything and dies, again and again, in the middle of a rotation. It only carries ids
of what the database holds, so the rotation comes to its end as if nothing had happened, also when a task was
waiting for its provider at that moment."""

from __future__ import annotations

import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import redis

from keyvault import clock
from rotation.facts import OperationState
from rotation.models import Operation, Rotation
from rotation.simulators import RunningSimulator
from rotation.simulators import start as start_simulator
from tests.concurrency.conftest import HASTY
from tests.conftest import Tell
from tests.installations import Installation
from tests.integration.processes import end, free_port, start, wait_for
from tests.stories.world import World

pytestmark = [pytest.mark.serial, pytest.mark.once]

LOSSES = 6  # half of them are a flush, half of them kill -9
BETWEEN = 0.9  # seconds; shorter than a beat, so most of what is sent is lost
POLICY = replace(HASTY, monitor=timedelta(seconds=3), cool_off=timedelta(seconds=3))


@dataclass
class Redis:
    folder: Path
    port: int
    process: Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """As it comes from its package: what it holds is written down now and then, and a kill loses it."""
        found = shutil.which("redis-server")
        assert found, "redis-server is not installed"
        command = [found, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = start(command, {"PATH": "/usr/bin:/bin"}, self.folder / "redis.log")
        wait_for(self._answers, "Redis answers")

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def flush(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def kill(self) -> None:
        assert self.process is not None
        end(self.process)


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    running = start_simulator("removit")
    yield running
    running.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path, free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def worker(
    installation: Installation,
    broker: Redis,
    simulator: RunningSimulator,
    bare_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Popen[bytes]]:
    """The worker with its scheduler, as ``keyturn serve`` starts it."""
    environment = {
        **bare_environment,
        "KEYTURN_DATA": str(installation.data),
        "KEYTURN_EGRESS_ALLOW": simulator.host_port,
        "KEYTURN_TICK": "1",
        "CELERY_BROKER_URL": broker.url,
    }
    command = [sys.executable, "-m", "keyvault.project.children", "worker"]
    process = start(command, environment, tmp_path / "worker.log")
    yield process
    end(process)


def test_a_broker_that_is_flushed_and_killed_loses_no_rotation(
    broker: Redis, simulator: RunningSimulator, worker: Popen[bytes], settings: Any, tell: Tell
) -> None:
    w = World(simulator, settings, policy=POLICY, instances=0, now=clock.now())
    simulator.control.set_fault(timeout=2.0, planes=["manage"])
    rotation = w.start()  # and what it rings for is never sent
    under_way = Operation.objects.filter(rotation=rotation, state=OperationState.RUNNING)
    wait_for(under_way.exists, "the provider is being asked")
    broker.kill()
    threading.Event().wait(BETWEEN)  # the worker looks for it in vain
    broker.start()
    simulator.control.set_fault(timeout=0.0)
    counted: Counter[str] = Counter({"killed during a call": 1})
    for n in range(LOSSES):
        threading.Event().wait(BETWEEN)
        if Rotation.objects.get(pk=rotation.id).is_open:
            counted["losses in the middle"] += 1
        if n % 2:
            broker.kill()
            broker.start()
            counted["killed"] += 1
        else:
            broker.flush()
            counted["flushed"] += 1
    wait_for(lambda: not Rotation.objects.get(pk=rotation.id).is_open, "the rotation ends", 300)
    counted["operations"] = Operation.objects.filter(rotation=rotation).count()
    tell("broker lost", counted)
    assert worker.poll() is None, "the worker outlives its broker"
    assert w.rotation.stage == "succeeded"
    assert w.honoured(2)
    assert not w.honoured(1)
    at_the_provider = simulator.control.keys()
    assert sum(view.live for view in at_the_provider) == 1, "nothing was created twice"
    assert counted["losses in the middle"] >= LOSSES // 2
