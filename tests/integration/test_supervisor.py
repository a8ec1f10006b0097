"""``keyturn serve`` with real processes: it starts, it heals, it ends, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.integration.processes import DEADLINE, alive, answers, descendants, end, start, wait_for

pytestmark = [pytest.mark.once, pytest.mark.serial]


# A signal comes at every line of what is done about the first one.
INTERRUPTED = """
import signal, sys
from keyvault.project.supervisor import Options, Supervisor

supervisor = Supervisor(Options(port=0))
signal.signal(signal.SIGTERM, supervisor._on_signal)
more = 20

def at_every_line(frame, event, argument):
    global more
    if event == "line" and more:
        more -= 1
        signal.raise_signal(signal.SIGTERM)
    return at_every_line

sys.settrace(at_every_line)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
print(supervisor._stopping, more < 20)
"""


@dataclass
class Serving:
    process: subprocess.Popen[bytes]
    url: str
    data: Path
    log: Path
    environment: dict[str, str]

    def role(self, name: str) -> list[psutil.Process]:
        """The processes of one role; for the web this is the server and its worker processes."""
        return [child for child in alive(descendants(self.process.pid)) if _role(child) == name]

    def all(self) -> set[psutil.Process]:
        return {psutil.Process(self.process.pid), *descendants(self.process.pid)}

    def ready(self) -> bool:
        return answers(f"{self.url}/readyz")


def _role(process: psutil.Process) -> str:
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return ""
    return command[-1] if "keyvault.project.children" in command else ""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation as the first start leaves it, to be copied: making one takes seconds."""
    folder = tmp_path_factory.mktemp("prepared") / "installation"
    environment = {**os.environ, "KEYTURN_DATA": str(folder), "KEYTURN_STATIC": "collected"}
    environment.pop("DATABASE_URL", None)
    command = [sys.executable, "-m", "keyvault.project.children", "prepare"]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return folder


@pytest.fixture
def serving(
    request: pytest.FixtureRequest, bare_environment: dict[str, str], free_port: int, tmp_path: Path
) -> Iterator[Serving]:
    data, log = tmp_path / "installation", tmp_path / "serve.log"
    if not request.node.get_closest_marker("first_start"):
        shutil.copytree(request.getfixturevalue("prepared"), data)
    command = [
        sys.executable,
        "-m",
        "keyvault.project.cli",
        "serve",
        "--port",
        str(free_port),
        "--workers",
        "2",
    ]
    environment = {**bare_environment, "KEYTURN_TICK": "1"}
    process = start(command, environment, log)
    state = Serving(process, f"http://127.0.0.1:{free_port}", data, log, environment)
    try:
        wait_for(lambda: state.ready() or process.poll() is not None, "ready")
        assert process.poll() is None, log.read_text()
        yield state
    finally:
        end(process)


@pytest.mark.first_start
def test_the_first_start_makes_a_private_installation_and_prints_one_link(serving: Serving) -> None:
    assert stat.S_IMODE(serving.data.stat().st_mode) == 0o700
    for name in ("keyring.json", "secret_key", "setup.json", "keyturn.sqlite3"):
        assert stat.S_IMODE((serving.data / name).stat().st_mode) == 0o600, name
    printed = serving.log.read_text()
    links = re.findall(rf"{serving.url}/setup/([A-Za-z0-9_-]{{40,}})/", printed)
    assert len(links) == 1
    assert links[0] not in (serving.data / "setup.json").read_text()
    wait_for(lambda: len(serving.role("web")) == 3, "the server and two worker processes")
    wait_for(lambda: len(serving.role("worker")) == 1, "one worker")
    for process in (*serving.role("web"), *serving.role("worker")):
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits), limits


def test_sigterm_ends_everything_cleanly(serving: Serving) -> None:
    everything = serving.all()
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(DEADLINE) == 0
    assert alive(everything) == []
    assert "Traceback" not in serving.log.read_text()


def test_a_signal_may_come_while_another_one_is_handled() -> None:
    """The kernel sends it once for each thread of a parent that is killed, all at the same moment."""
    told = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    assert told.stdout.split() == ["True", "True"]


def test_kill_9_of_the_supervisor_leaves_no_orphan(serving: Serving) -> None:
    everything = serving.all()
    assert len(everything) >= 5
    serving.process.kill()
    serving.process.wait()
    wait_for(lambda: not alive(everything), "every process ended")


def test_kill_9_of_the_server_ends_its_worker_processes_and_starts_it_again(serving: Serving) -> None:
    before = serving.role("web")
    server = next(process for process in before if process.ppid() == serving.process.pid)
    server.kill()
    wait_for(lambda: not alive(before), "the old web processes ended")
    wait_for(serving.ready, "a new server answers")
    assert not {process.pid for process in serving.role("web")} & {process.pid for process in before}


def test_kill_9_of_the_worker_starts_it_again_and_the_beat_goes_on(serving: Serving) -> None:
    (worker,) = serving.role("worker")
    worker.kill()
    (after,) = wait_for(
        lambda: [new for new in serving.role("worker") if new.pid != worker.pid], "a new worker"
    )
    wait_for(lambda: serving.log.read_text().count("celery@") >= 2, "the new worker is ready")
    # With a tick a second, a heartbeat can only be this young if the new worker beats.
    wait_for(lambda: _heartbeat(serving) > after.create_time(), "a heartbeat of the new worker")


def test_a_web_worker_process_that_dies_is_replaced(serving: Serving) -> None:
    workers = [process for process in serving.role("web") if process.ppid() != serving.process.pid]
    workers[0].kill()
    wait_for(lambda: len(serving.role("web")) == 3 and not alive(workers[:1]), "a replacement")
    wait_for(lambda: answers(f"{serving.url}/livez"), "an answer")


def test_a_second_start_keeps_what_is_there_and_needs_no_new_keyring(
    serving: Serving, free_port: int
) -> None:
    before = {name: (serving.data / name).read_bytes() for name in ("keyring.json", "secret_key")}
    serving.process.send_signal(signal.SIGTERM)
    serving.process.wait(DEADLINE)
    made = subprocess.run(
        [sys.executable, "-m", "keyvault.project.cli", "token", "alice", "--admin"],
        env=serving.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"ktu_[A-Za-z0-9]{49}\n", made.stdout)
    again = subprocess.run(
        [sys.executable, "-m", "keyvault.project.children", "prepare"],
        env=serving.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.returncode == 0
    assert {name: (serving.data / name).read_bytes() for name in before} == before


def _heartbeat(serving: Serving) -> float:
    """When the scheduler was last seen, as seconds since the epoch; asked of the running server. 0: it did
    not answer in time, or is not ready."""
    asked = time.time()
    try:
        with urllib.request.urlopen(f"{serving.url}/readyz", timeout=DEADLINE) as response:
            age = json.load(response)["checks"]["beat"]["age_seconds"]
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return 0.0
    return asked - float(age)
