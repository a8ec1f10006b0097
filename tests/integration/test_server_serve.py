"""``keyturn serve`` as a whole: told to stop while it is busy, and started where it must not start."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from keyvault.project.server import KILL_AFTER
from keyvault.project.supervisor import STOP_WITHIN
from tests.integration.plain_http import End
from tests.integration.processes import alive, answers, descendants, end, start, wait_for
from tests.integration.small_server import Load

pytestmark = [pytest.mark.once, pytest.mark.serial]


def _serve(environment: Mapping[str, str], port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "keyvault.project.cli", "serve", "--port", str(port), "--workers", "2"]
    return start(command, environment, log)


def _noted(log: Path) -> set[str]:
    """The ids of the requests that the log says were answered."""
    lines = (line for line in log.read_text().splitlines() if line.startswith("{"))
    entries = (json.loads(line) for line in lines)
    return {entry["request_id"] for entry in entries if entry["event"] == "request"}


def test_the_supervisor_allows_the_server_its_time() -> None:
    assert STOP_WITHIN > KILL_AFTER


def test_sigterm_loses_no_request(bare_environment: dict[str, str], free_port: int, tmp_path: Path) -> None:
    log = tmp_path / "serve.log"

    async def scenario() -> tuple[list[Load], float]:
        # One kind is answered on the event loop, the other by Django on a thread.
        loads = [Load(free_port, "/v1/auth/whoami/"), Load(free_port, "/livez")]
        running = [asyncio.create_task(load.run(20)) for load in loads]
        await asyncio.gather(*(load.has_asked(200) for load in loads))
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_for, lambda: process.poll() is not None, "the end")
        seconds = time.monotonic() - started
        await asyncio.gather(*running)
        return loads, seconds

    process = _serve(bare_environment, free_port, log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{free_port}/livez"), "an answer")
        loads, seconds = asyncio.run(scenario())
    finally:
        end(process)
    assert process.returncode == 0
    assert seconds < KILL_AFTER
    for load, status in zip(loads, (401, 200), strict=True):
        assert {asked.exchange.status for asked in load.asked if asked.exchange.end is End.WHOLE} == {status}
        assert load.ids(End.TRUNCATED) == set()
        assert {name for name in _noted(log) if name.startswith(f"load-{load.name}-")} == load.ids(End.WHOLE)
    assert "Traceback" not in log.read_text()


def test_a_keyring_that_cannot_be_used_is_noticed_before_anything_is_served(
    bare_environment: dict[str, str], free_port: int, tmp_path: Path
) -> None:
    keyring = Path(bare_environment["KEYTURN_DATA"]) / "keyring.json"
    keyring.parent.mkdir(mode=0o700)
    keyring.write_text("{}")
    keyring.chmod(0o600)
    log = tmp_path / "serve.log"
    process = _serve(bare_environment, free_port, log)
    try:
        wait_for(lambda: process.poll() is not None, "it gave up")
    finally:
        end(process)
    assert process.returncode == 1
    assert "keyturn: the document:" in log.read_text()
    assert "celery@" not in log.read_text()


def test_it_says_where_it_answers_also_where_that_name_is_not_allowed(
    bare_environment: dict[str, str], free_port: int, tmp_path: Path
) -> None:
    log = tmp_path / "serve.log"
    process = _serve({**bare_environment, "ALLOWED_HOSTS": "keys.example.org"}, free_port, log)
    try:
        wait_for(lambda: f"Keyturn answers at http://127.0.0.1:{free_port}" in log.read_text(), "it says so")
    finally:
        end(process)


def test_told_to_stop_while_it_prepares_it_ends_and_can_start_again(
    bare_environment: dict[str, str], free_port: int, tmp_path: Path
) -> None:
    log = tmp_path / "serve.log"
    process = _serve(bare_environment, free_port, log)
    try:
        # The web process and those in which it prepares.
        wait_for(lambda: len(descendants(process.pid)) >= 3, "it prepares")
        everything = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.poll() is not None, "the end")
        wait_for(lambda: not alive(everything), "nothing is left")
    finally:
        end(process)
    assert process.returncode == 0
    again = _serve(bare_environment, free_port, log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{free_port}/livez"), "an answer")
    finally:
        end(again)
