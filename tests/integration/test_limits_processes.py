"""Rate limits of one host: many processes and threads, killed in the middle, count exactly"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyvault.limits.cells import Cells
from tests.integration.limit_hammer import CELLS, NOW, read_numbers
from tests.integration.processes import DEADLINE, end, wait_for

pytestmark = [pytest.mark.once, pytest.mark.serial]

ROOT = Path(__file__).resolve().parents[2]
MINUTE = int(NOW.timestamp()) // 60
ENDLESS = 1_000_000_000

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.readline()
"""

FORKS = """
import os, signal, sys, threading
from pathlib import Path
from keyvault.limits.cells import Cells
cells, ended = Cells(Path(sys.argv[1]), 64), threading.Event()

def hammer():
    while not ended.is_set():
        cells.hit(b"another subject.", 29_000_000)

threads = [threading.Thread(target=hammer) for _ in range(4)]
[thread.start() for thread in threads]
for number in range(1, 101):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(cells.hit(b"sixteen bytes...", 29_000_000))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != number:
        break
ended.set()
[thread.join() for thread in threads]
print(number, code)
"""

Child = subprocess.Popen[bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.cells"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a child and wait until it is ready."""
    children: list[Child] = []

    def start(*command: str) -> Child:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        children.append(child)
        return child

    yield start
    for child in children:
        end(child)
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            stream.close()


def ready(child: Child) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"


def go(child: Child) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()


def hammer(
    begin: Callable[..., Child], path: Path, subject: bytes, threads: int, hits: int, out: Path
) -> Child:
    arguments = [str(path), "", subject.hex(), str(threads), str(hits), str(out)]
    return begin("-m", "tests.integration.limit_hammer", *arguments)


def test_eight_processes_with_threads_get_every_number_once(
    begin: Callable[..., Child], path: Path, tmp_path: Path
) -> None:
    """They start together, so they also race for making the file."""
    subject, outputs = uuid.uuid4().bytes, [tmp_path / f"numbers-{n}" for n in range(8)]
    children = [hammer(begin, path, subject, 3, 400, output) for output in outputs]
    for child in children:
        ready(child)
    for child in children:
        go(child)
    assert [child.wait(DEADLINE) for child in children] == [0] * 8
    parts = [read_numbers(output) for output in outputs]
    assert [len(part) for part in parts] == [1200] * 8
    assert sorted(number for part in parts for number in part) == list(range(1, 9601))


def test_processes_killed_at_any_moment_cost_no_number_that_anybody_got(
    begin: Callable[..., Child], path: Path, tmp_path: Path
) -> None:
    """One after another is killed with -9 while all hit; the survivors go on and no number comes twice."""
    subject, chance = uuid.uuid4().bytes, random.Random(7)
    outputs = [tmp_path / f"numbers-{n}" for n in range(12)]
    children = [hammer(begin, path, subject, 2, ENDLESS, output) for output in outputs]
    for child in children:
        ready(child)
    for child in children:
        go(child)
    for child, output in zip(children, outputs, strict=True):
        more = (output.stat().st_size // 8 if output.exists() else 0) + chance.randrange(20, 300)
        wait_for(lambda: output.exists() and output.stat().st_size > 8 * more, "this process still hits")  # noqa: B023
        end(child)
    numbers = [number for output in outputs for number in read_numbers(output)]
    assert len(set(numbers)) == len(numbers)
    # Of every killed thread one hit may be counted whose number it had no time to write down.
    cells = Cells(path, CELLS)
    counted = cells.hit(subject, MINUTE) - 1
    cells.close()
    assert len(numbers) <= counted <= len(numbers) + 2 * len(children)
    assert max(numbers) <= counted


def test_a_killed_holder_of_the_lock_stops_nobody(begin: Callable[..., Child], path: Path) -> None:
    cells, subject = Cells(path, CELLS), uuid.uuid4().bytes
    assert cells.hit(subject, MINUTE) == 1
    holder = begin("-c", HOLDER, str(path))
    ready(holder)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cells.hit, subject, MINUTE)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        holder.kill()
        assert waiting.result(DEADLINE) == 2
    assert cells.hit(subject, MINUTE) == 3
    cells.close()


def test_forks_of_a_busy_process_count_in_the_same_cells(path: Path) -> None:
    """At a fork some thread holds the process's own lock most of the time."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(path)], cwd=ROOT, capture_output=True, check=True, timeout=DEADLINE
    )
    assert done.stdout.split() == [b"100", b"100"]


def test_many_subjects_from_many_processes_in_a_table_almost_full(
    begin: Callable[..., Child], path: Path, tmp_path: Path
) -> None:
    """60 subjects for 64 cells: most are not in their first group, and all race for the free cells."""
    many = [uuid.uuid4().bytes for _ in range(CELLS - 4)]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from keyvault.limits.cells import Cells\n"
        "cells = Cells(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "many = [bytes.fromhex(text) for text in sys.argv[4:]]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for _ in range(100):\n"
        "    for subject in many:\n"
        "        cells.hit(subject, int(sys.argv[3]))\n"
    )
    arguments = [str(path), str(CELLS), str(MINUTE)]
    children = []
    for n in range(4):
        order = random.Random(n).sample(many, len(many))
        children.append(begin("-c", script, *arguments, *(subject.hex() for subject in order)))
    for child in children:
        ready(child)
    for child in children:
        go(child)
    assert [child.wait(DEADLINE) for child in children] == [0] * 4
    cells = Cells(path, CELLS)
    assert {cells.hit(subject, MINUTE) for subject in many} == {401}
    assert cells.displaced == 0
    cells.close()
    assert os.listdir(tmp_path) == [path.name]
