"""The processes of a run: each on its cores, looked at while it works, all ended with the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

import psutil

from keyvault.project.guard import die_with_parent

Found = TypeVar("Found")

READY_WITHIN = 60.0  # seconds
END_WITHIN = 15.0  # seconds, then SIGKILL
LOG_LINES = 15


class Failed(Exception):
    """The run cannot go on, or a figure would be wrong; the message says why."""


@dataclass(frozen=True)
class Cores:
    """Where things run. All three are the same where nothing is pinned."""

    server: frozenset[int]
    loader: frozenset[int]
    every: frozenset[int]

    @classmethod
    def choose(cls, *, pin: bool) -> Cores:
        """The first allowed core for the servers, the second for the load, if there are two."""
        every = frozenset(os.sched_getaffinity(0))
        if not pin or len(every) < 2:
            return cls(every, every, every)
        server, loader = sorted(every)[:2]
        return cls(frozenset({server}), frozenset({loader}), every)

    @property
    def pinned(self) -> bool:
        return self.server != self.loader


@contextmanager
def running_on(cores: Iterable[int]) -> Iterator[None]:
    """What is started in here runs on these cores, and so does all that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_for(question: Callable[[], Found | None], what: str, seconds: float = READY_WITHIN) -> Found:
    """Ask until the answer is neither None nor false; raise ``Failed`` with ``what`` at the deadline."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        pause.wait(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """Starts processes that write to log files in ``folder``, and ends them all on exit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last one first: what was started later may use what was started earlier.
        for name in reversed(list(self._running)):
            self.end(name)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        talk: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a process under a name of its own; with ``talk`` its standard input and output are pipes.

        It is in a session of its own, so that Ctrl-C reaches only us and things end in order, and the
        kernel ends it if we are killed.
        """
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                list(command),
                env=None if environment is None else dict(environment),
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talk else log,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        self._running[name] = process
        return process

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Run a process to its end and return what it printed. Raises ``Failed``."""
        process = self.start(name, command, environment, talk=True)
        printed, _ = process.communicate()
        if process.returncode != 0:
            raise self.failure(name)
        return printed

    def run_together(
        self, commands: Mapping[str, Sequence[str]], environment: Mapping[str, str] | None = None
    ) -> None:
        """Run several processes at once to their ends. Raises ``Failed`` if one fails."""
        started = {name: self.start(name, command, environment) for name, command in commands.items()}
        for name, process in started.items():
            if process.wait() != 0:
                raise self.failure(name)

    def end(self, name: str) -> None:
        process = self._running.pop(name)
        below = tree(process.pid)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)
        for left in below:
            with suppress(psutil.NoSuchProcess):
                left.kill()

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def memory(self, name: str) -> Memory:
        return memory_of(psutil.Process(self.pid(name)))

    def check(self, name: str) -> None:
        """Raise ``Failed`` if the process has ended."""
        if self._running[name].poll() is not None:
            raise self.failure(name)

    def failure(self, name: str) -> Failed:
        process = self._running[name]
        lines = self._log(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
        said = "\n".join(f"  {line[:300]}" for line in lines)
        return Failed(f"{name} ended ({process.poll()}). It said last:\n{said}")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        with suppress(BrokenPipeError):
            pipe.close()


def tree(pid: int) -> list[psutil.Process]:
    """The process and everything below it; nothing if it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def place(processes: Iterable[psutil.Process], cores: Iterable[int]) -> None:
    """Move running processes to these cores."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.cpu_affinity(list(cores))


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU time."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


def cpu_of(pid: int) -> Cpu:
    """CPU time of a process and all below it, with those that ended."""
    user = system = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            user += spent.user + spent.children_user
            system += spent.system + spent.children_system
    return Cpu(user, system)


@dataclass(frozen=True)
class Memory:
    """Bytes: what is in memory, and the share of it that counts for this process alone."""

    resident: int
    proportional: int


def memory_of(process: psutil.Process) -> Memory:
    try:
        held = process.memory_full_info()
    except psutil.AccessDenied:
        # Keyturn's processes are closed to others of their user; only root is told who shares what.
        resident = process.memory_info().rss
        return Memory(resident, resident)
    return Memory(held.rss, held.pss)


def stop_at_signals() -> None:
    """Ctrl-C, SIGTERM and SIGHUP end the run; everything is put away first."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
