"""kill -9 while KEKs are replaced and rows are moved, and readers that never notice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.db import connection

from keyvault.crypto.secret import Secret
from keyvault.integrity import verify
from keyvault.keystore import open_version
from keyvault.models import KeyVersion
from keyvault.services.keks import check_canaries
from keyvault.services.rewrap import verify_environment
from tests.conftest import Tell
from tests.integration.furniture import NOW, PATIENCE, broken_at, fresh_kek, furnish
from tests.integration.test_keyring_rotation import all_open, fill, kids, primary
from tests.scale import scaled

pytestmark = [pytest.mark.serial, pytest.mark.long, pytest.mark.django_db(transaction=True)]

ROOT = Path(__file__).parents[2]
# 500 together in a long run.
KILLED_MOVING = scaled("KEK_KILLS", 20, 400)
KILLED_ADDING = scaled("KEK_ADDING_KILLS", 10, 100)
ROWS = 120


def database_url() -> str:
    """The database of this test, for another process."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))


class Forks:
    """Real processes that rewrap, one after the other."""

    def __init__(self, folder: Path) -> None:
        environment = {
            **os.environ,
            "KEYTURN_DATA": str(folder),
            "DATABASE_URL": database_url(),
            "KEYTURN_LOG_LEVEL": "ERROR",
        }
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.rewrap_forks"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.parent.stdout is not None
        return self.parent.stdout.readline().strip()

    def start(self, what: str) -> int:
        """Returns the process id."""
        assert self.parent.stdin is not None
        self.parent.stdin.write(f"{what}\n")
        self.parent.stdin.flush()
        return int(self._line())

    def end(self) -> int:
        """Wait for the one that was started; its exit code, or minus the signal that killed it."""
        return int(self._line())

    def killed(self, process: int) -> bool:
        """Kill it now. Returns False if it was done before."""
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return self.end() == -signal.SIGKILL

    def close(self) -> None:
        self.parent.communicate(timeout=PATIENCE)


@pytest.fixture
def forks(data_dir: Path, transactional_db: None) -> Iterator[Forks]:
    running = Forks(data_dir)
    yield running
    running.close()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not reached():
        assert time.monotonic() < deadline
        pause.wait(0.001)


def under_readers(secrets: dict[Any, Secret], work: Callable[[], int]) -> tuple[int, int]:
    """Do it while two threads read; returns what it returned, and how many rows were read.

    A read that fails, or that opens to something else, fails the test.
    """
    over = threading.Event()

    def read() -> int:
        dice, count = random.Random(), 0
        try:
            while not over.wait(0.003):
                version_id = dice.choice(list(secrets))
                rows = KeyVersion.objects.select_related("key__service", "key__environment")
                version = rows.get(pk=version_id)
                verify(version)
                assert open_version(version) == secrets[version_id]
                count += 1
        finally:
            connection.close()
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            done = work()
        finally:
            over.set()
    return done, sum(reader.result() for reader in readers)


def test_kill_9_in_the_middle_of_the_rows_fails_no_read(forks: Forks, tell: Tell) -> None:
    secrets = fill(furnish(), "prod", ROWS)
    dice = random.Random(20)
    keks = [primary("prod"), fresh_kek()]

    def moved() -> int:
        return KeyVersion.objects.filter(kek_kid=keks[-1]).count()

    def kill_again_and_again() -> int:
        killed = 0
        while killed < KILLED_MOVING:
            if moved() > ROWS - 40:
                keks.append(fresh_kek())
            goal = moved() + dice.randint(1, 8)
            process = forks.start("rewrap")
            wait_until(lambda goal=goal: moved() >= goal)  # type: ignore[misc]
            killed += forks.killed(process)
        return killed

    killed, read = under_readers(secrets, kill_again_and_again)
    forks.start("rewrap")
    assert forks.end() == 0
    assert kids("prod") == {keks[-1]}
    assert verify_environment("prod").broken == ()
    all_open(secrets)
    assert broken_at() is None
    counted = {"killed": killed, "KEKs": len(keks), "reads": read, "failed reads": 0}
    tell("kill -9 while rows are moved", {**counted, "rows under an older KEK": 0})


def test_kill_9_while_a_kek_is_replaced_leaves_every_row_open(
    forks: Forks, data_dir: Path, tell: Tell
) -> None:
    """It dies before, between and after the changes of the keyring file."""
    secrets = fill(furnish(), "prod", 30)
    dice = random.Random(20)
    file = data_dir / "keyring.json"

    def kill_again_and_again() -> int:
        killed = 0
        while killed < KILLED_ADDING:
            before = file.read_bytes()
            process = forks.start("replace")
            if dice.random() < 0.7:
                wait_until(lambda old=before: file.read_bytes() != old)  # type: ignore[misc]
            time.sleep(dice.uniform(0, 0.03))
            killed += forks.killed(process)
            check_canaries(now=NOW)
        return killed

    killed, read = under_readers(secrets, kill_again_and_again)
    forks.start("replace")
    assert forks.end() == 0
    assert kids("prod") == {primary("prod")}
    all_open(secrets)
    assert broken_at() is None
    tell("kill -9 while a KEK is replaced", {"killed": killed, "reads": read, "failed reads": 0})
