"""``keyturn demo`` as its user runs it: real processes, real requests, SQLite."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, Final

import pytest

# A chain of its own: it waits more than it works, for rotations that take their time.
pytestmark = [pytest.mark.once, pytest.mark.xdist_group("demo")]

PROVIDERS: Final = ["backgrounderase", "removit", "removebgvideo", "backgroundcut"]
COMMAND: Final = [sys.executable, "-c", "from keyvault.project.cli import main; main()", "demo"]


CHAPTERS: Final = [
    "four_rotations_unnoticed",
    "rollback_in_shift",
    "rollback_in_monitor",
    "straggler_held",
    "lost_answer_reconciled",
    "emergency",
]
SECONDS: Final = 900.0  # for whatever the demo is to come to: the machine may be slow


@dataclass(frozen=True)
class Demo:
    """A demo that runs; what it prints goes to files, so that it never waits for us."""

    process: subprocess.Popen[bytes]
    output: Path
    errors: Path

    def said(self, text: str) -> bool:
        return text in self.errors.read_text()


Start = Callable[..., Demo]


@pytest.fixture
def start(bare_environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a demo that is ended with the test, whatever becomes of it."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> Demo:
        output, errors = tmp_path / "stdout", tmp_path / "stderr"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                env=bare_environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        running.append(process)
        return Demo(process, output, errors)

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


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


def signed_in(address: str, username: str, password: str) -> urllib.request.OpenerDirector:
    """A browser without JavaScript, as far as the console needs one."""
    cookies = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    page = browser.open(f"{address}/accounts/login/").read().decode()
    (token,) = set(re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page))
    form = {"csrfmiddlewaretoken": token, "login": username, "password": password}
    browser.open(f"{address}/accounts/login/", urllib.parse.urlencode(form).encode())
    return browser


def test_four_keys_are_replaced_unnoticed_and_the_console_shows_what_was_told(
    start: Start, tmp_path: Path, free_port: int
) -> None:
    data = tmp_path / "demo"
    demo = start("--json", "--speed", "4", "--port", str(free_port), "--data", str(data))
    over = wait_until(
        lambda: demo.said("Ctrl-C stops everything.") or demo.process.poll() is not None, SECONDS
    )
    text = demo.errors.read_text()
    assert over, text[-4_000:]
    assert demo.process.poll() is None, text
    (line,) = demo.output.read_text().splitlines()
    everything_was_shown(json.loads(line), text)
    address = f"http://127.0.0.1:{free_port}"
    (person,) = re.findall(r"user (\S+), password (\S+)", text)
    browser = signed_in(address, *person)
    shown = re.findall(rf"({address}/rotations/\S+/)  (\w+): ", text)
    assert Counter(stage for _, stage in shown) == {"succeeded": 7, "rolled_back": 2}
    for url, stage in shown:
        page = browser.open(url).read().decode()
        assert stage.replace("_", " ") in page.lower()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(SECONDS) == 0, demo.errors.read_text()
    assert not answers(free_port)
    assert processes_of(data) == []


def everything_was_shown(told: dict[str, Any], text: str = "") -> None:
    assert list(told) == ["providers", "rollback", "chapters"]
    assert [one["provider"] for one in told["providers"]] == PROVIDERS
    for one in told["providers"]:
        assert one["failed_requests"] == 0
        assert one["requests"] > 100
        assert one["old_key_refused"] is True
        assert one["weights"] == [5, 25, 50, 100]
        assert one["audit_events"] > 10
    assert told["rollback"]["provider"] in PROVIDERS
    assert told["rollback"]["current_version"] == 2
    assert 0 <= told["rollback"]["seconds_to_weight_0"] < SECONDS
    assert [one["chapter"] for one in told["chapters"]] == CHAPTERS
    assert [one for one in told["chapters"] if one["shown"] is not True or one["seconds"] <= 0] == [], text[
        -4_000:
    ]


@pytest.mark.parametrize("moment", ["Keyturn answers", "(a) the prod keys"])
def test_an_interrupted_demo_leaves_no_process(
    start: Start, tmp_path: Path, free_port: int, moment: str
) -> None:
    data = tmp_path / "demo"
    demo = start("--port", str(free_port), "--data", str(data))
    assert wait_until(lambda: demo.said(moment), SECONDS)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(SECONDS) == 130, demo.errors.read_text()
    assert not answers(free_port)
    assert processes_of(data) == []
    assert not demo.said("Traceback")


def test_a_killed_demo_takes_its_server_with_it(start: Start, tmp_path: Path, free_port: int) -> None:
    data = tmp_path / "demo"
    demo = start("--port", str(free_port), "--data", str(data))
    assert wait_until(lambda: answers(free_port), SECONDS)
    assert processes_of(data) or sys.platform != "linux"
    os.kill(demo.process.pid, signal.SIGKILL)
    assert wait_until(lambda: not answers(free_port) and not processes_of(data), SECONDS)


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
            timeout=SECONDS,
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
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
