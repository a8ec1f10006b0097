"""``keyturn demo`` as its user runs it: real processes, real requests, SQLite."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.once, pytest.mark.serial]

PROVIDERS: Final = ["backgrounderase", "removit", "removebgvideo", "backgroundcut"]
COMMAND: Final = [sys.executable, "-c", "from keyvault.project.cli import main; main()", "demo"]


@pytest.fixture
def started(bare_environment: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test, whatever becomes of it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(data: Path) -> list[int]:
    """Processes that work for the installation in ``data``; only Linux tells, elsewhere the port must do."""
    mark = f"KEYTURN_DATA={data}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:
            continue  # ended while we looked, or somebody else's
    return found


def wait_until(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_four_keys_are_replaced_unnoticed_and_a_bad_one_is_taken_back(
    bare_environment: dict[str, str], tmp_path: Path, free_port: int
) -> None:
    data = tmp_path / "demo"
    done = subprocess.run(
        [*COMMAND, "--once", "--json", "--speed", "20", "--port", str(free_port), "--data", str(data)],
        env=bare_environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert list(told) == ["providers", "rollback"]
    assert [one["provider"] for one in told["providers"]] == PROVIDERS
    for one in told["providers"]:
        assert one["failed_requests"] == 0
        assert one["requests"] > 100
        assert one["old_key_refused"] is True
        assert one["weights"] == [5, 25, 50, 100]
        assert one["audit_events"] > 10
    assert told["rollback"]["provider"] in PROVIDERS
    assert told["rollback"]["current_version"] == 2
    assert 0 <= told["rollback"]["seconds_to_weight_0"] < 30
    assert not answers(free_port)


def test_an_interrupted_demo_leaves_no_process(
    bare_environment: dict[str, str], tmp_path: Path, free_port: int, started: list[subprocess.Popen[str]]
) -> None:
    data = tmp_path / "demo"
    process = start(bare_environment, "--port", str(free_port), "--data", str(data))
    started.append(process)
    assert wait_until(lambda: answers(free_port), 60)
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    assert not answers(free_port)
    assert processes_of(data) == []


def test_a_killed_demo_takes_its_server_with_it(
    bare_environment: dict[str, str], tmp_path: Path, free_port: int, started: list[subprocess.Popen[str]]
) -> None:
    data = tmp_path / "demo"
    process = start(bare_environment, "--port", str(free_port), "--data", str(data))
    started.append(process)
    assert wait_until(lambda: answers(free_port), 60)
    assert processes_of(data) or sys.platform != "linux"
    os.kill(process.pid, signal.SIGKILL)
    assert wait_until(lambda: not answers(free_port) and not processes_of(data), 40)


def test_a_port_that_is_taken_is_named_and_nothing_is_started(
    bare_environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port), "--data", str(tmp_path / "demo")],
            env=bare_environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert f"Port {port} is taken" in done.stderr
    assert "--port" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_a_directory_with_data_in_it_is_left_alone(bare_environment: dict[str, str], tmp_path: Path) -> None:
    kept = tmp_path / "keyturn.sqlite3"
    kept.write_text("somebody's data")
    done = subprocess.run(
        [*COMMAND, "--once", "--port", "0", "--data", str(tmp_path)],
        env=bare_environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
