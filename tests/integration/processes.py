"""Real processes in tests: start them, look at their descendants, wait with a deadline, leave none behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

Found = TypeVar("Found")

DEADLINE = 120.0  # seconds; generous, because a test machine may be busy


def free_port() -> int:
    """A port on 127.0.0.1 on which nobody listens, and which nobody else is given while this process lives.

    It stays bound here, to a socket that does not listen: whoever asks the system for any port, or connects
    from one, gets another; a server that is told this one may still listen there, as often as it is started.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    held.detach()  # never closed
    return port


def wait_for(question: Callable[[], Found], what: str, seconds: float = DEADLINE) -> Found:
    """Ask until the answer is true; fail with ``what`` at the deadline."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        pause.wait(0.05)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process of its own session that writes to ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command), env=dict(environment), stdout=output, stderr=output, start_new_session=True
        )


def descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie waits for its parent and does nothing."""
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    return left


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything below it, for good."""
    below = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    for child in alive(below):
        with suppress(psutil.NoSuchProcess):  # it may end by itself at this very moment
            child.kill()


def answers(url: str) -> bool:
    """Whether this address answers with a success."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
