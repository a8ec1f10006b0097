"""What is asked of a server, by whom, and what came of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Failed, Processes

_UNIT, _RECORD = b"\x1f", b"\x1e"
_SLACK = 30  # seconds that a loader may take beyond its time


@dataclass(frozen=True)
class Pattern:
    """A whole HTTP request, with a random number of ``first``..``last`` in it; none where last < first."""

    before: bytes
    after: bytes = b""
    first: int = 1
    last: int = 0


def encode(patterns: Iterable[Pattern]) -> bytes:
    """The workload file, as load.lua and loop.py read it."""
    return b"".join(
        _UNIT.join((str(one.first).encode(), str(one.last).encode(), one.before, one.after)) + _RECORD
        for one in patterns
    )


def distinct(patterns: Iterable[Pattern]) -> int:
    """How many different requests these are."""
    return sum(max(1, one.last - one.first + 1) for one in patterns)


def decode(content: bytes) -> list[Pattern]:
    patterns = []
    for record in content.split(_RECORD)[:-1]:
        first, last, before, after = record.split(_UNIT)
        patterns.append(Pattern(before, after, int(first), int(last)))
    return patterns


def get(port: int, path: str, *, header: str = "", last: int = -1) -> Pattern:
    """A GET. A ``#`` in ``path`` becomes a random number of 0..``last``; ``header`` is one more line."""
    before, _, after = path.partition("#")
    lines = [f"Host: 127.0.0.1:{port}", *([header] if header else [])]
    head = f"{after} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    if last < 0:
        return Pattern(f"GET {before}{head}".encode())
    return Pattern(f"GET {before}".encode(), head.encode(), 0, last)


def post(port: int, path: str, body: dict[str, Any], *, header: str) -> Pattern:
    content = json.dumps(body)
    return Pattern(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n{content}".encode()
    )


@dataclass(frozen=True)
class Sample:
    """What one loader measured. Latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    slowest: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def parse(printed: str) -> Sample:
    """Read what a loader printed.

    Raises ``Failed`` unless every request was answered with a success: an error is quick, and would make
    the figures look good.
    """
    line = next((line for line in printed.splitlines() if line.startswith("{")), None)
    if line is None:
        raise Failed("the loader printed no result")
    told = json.loads(line)
    errors = {kind: count for kind, count in told["errors"].items() if count}
    if errors:
        counted = ", ".join(f"{count} x {kind}" for kind, count in errors.items())
        raise Failed(f"of {told['requests']} requests some failed: {counted}")
    if not told["requests"]:
        raise Failed("no request was answered")
    return Sample(
        requests=told["requests"],
        seconds=told["microseconds"] / 1e6,
        p50=told["p50"] / 1000,
        p99=told["p99"] / 1000,
        slowest=told["slowest"] / 1000,
    )


class Loader:
    """wrk, or where it is missing an event loop of ours, which is slower itself."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._wrk = shutil.which("wrk")

    @property
    def name(self) -> str:
        if self._wrk is None:
            return "benchmarks/loop.py (wrk is not installed)"
        said = subprocess.run([self._wrk, "--version"], capture_output=True, text=True, check=False)
        return "wrk " + said.stdout.split()[1].removeprefix("debian/").partition("-")[0]

    def run(
        self, port: int, workload: Path, connections: int, seconds: int, *, place: int | None = None
    ) -> Sample:
        """Load 127.0.0.1 for so many seconds, at random, or in order from ``place`` on. Raises ``Failed``."""
        name = "loader"
        command = self._command(port, workload, connections, seconds)
        process = self._processes.start(name, command if place is None else [*command, str(place)], talk=True)
        try:
            printed, _ = process.communicate(timeout=seconds + _SLACK)
            if process.returncode != 0:
                raise self._processes.failure(name)
        except subprocess.TimeoutExpired as error:
            raise Failed("the loader did not end") from error
        finally:
            self._processes.end(name)
        return parse(printed)

    def _command(self, port: int, workload: Path, connections: int, seconds: int) -> list[str]:
        if self._wrk is None:
            arguments = [str(port), str(workload), str(connections), str(seconds)]
            return [sys.executable, "-m", "benchmarks.loop", *arguments]
        script = Path(__file__).with_name("load.lua")
        limits = ["-t1", f"-c{connections}", f"-d{seconds}s"]
        return [self._wrk, *limits, "-s", str(script), f"http://127.0.0.1:{port}/", "--", str(workload)]
