"""Where a web process spends its time, as py-spy samples it under load."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Loader
from benchmarks.measure import Case
from benchmarks.processes import Processes
from benchmarks.report import grid

SECONDS = 5
RATE = 400  # samples a second
TOP = 25
# "deliver (keyvault/delivery/keys.py:31)"
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+?)(?::\d+)?\)")


@dataclass(frozen=True)
class Hot:
    """A function and its shares of all samples, 0-1: in itself, and with everything that it called."""

    function: str
    alone: float
    together: float


def hottest(collapsed: str) -> list[Hot]:
    """From collapsed stacks, ``outer;inner;innermost COUNT``, to functions; the hottest in itself first."""
    alone: Counter[str] = Counter()
    together: Counter[str] = Counter()
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_plain(frame) for frame in stack.split(";")]
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            together[frame] += int(count)
    total = sum(alone.values())
    return [Hot(name, count / total, together[name] / total) for name, count in alone.most_common()]


def _plain(frame: str) -> str:
    """``deliver (delivery/keys.py)``: without the line, and with the last two parts of the path only."""
    found = _FRAME.fullmatch(frame)
    if found is None:
        return frame or "outside of Python"
    return f"{found['function']} ({'/'.join(found['file'].split('/')[-2:])})"


def hottest_table(found: list[Hot]) -> str:
    head = ("Function", "itself", "with its calls")
    rows = [(one.function, f"{one.alone:.1%}", f"{one.together:.1%}") for one in found[:TOP]]
    return grid([head, *rows])


def sample(processes: Processes, loader: Loader, case: Case, worker: int, folder: Path) -> list[Hot]:
    """Load a case and look at its worker meanwhile. Raises ``Failed``."""
    output = folder / "py-spy.txt"
    spy = Path(sys.executable).with_name("py-spy")
    limits = ["--duration", str(SECONDS), "--rate", str(RATE), "--format", "raw"]
    command = [str(spy), "record", "--pid", str(worker), "--nonblocking", *limits, "--output", str(output)]
    watching = processes.start("py-spy", command)
    loader.run(case.port, case.workload, case.connections, SECONDS + 2)
    if watching.wait() != 0:
        raise processes.failure("py-spy")
    processes.end("py-spy")
    return hottest(output.read_text())
