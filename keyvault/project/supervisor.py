"""``keyturn serve``: a web server and a worker with a scheduler, kept alive by one small parent.

The parent imports neither Django nor Celery. Its children ask the kernel to be told when it ends (guard.py),
so that nothing is left behind at ``kill -9`` of any of them.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Literal

Role = Literal["web", "worker"]

ROLES: Final[tuple[Role, ...]] = ("web", "worker")
LOOK_EVERY: Final = 0.2  # seconds
# Seconds, then SIGKILL: longer than the web process may take for its own (KILL_AFTER in server.py), and than
# the worker needs to end the task that it is at.
STOP_WITHIN: Final = 40.0
HEALTHY_AFTER: Final = 30.0  # seconds of life that forgive earlier failures
LONGEST_BACK_OFF: Final = 30.0  # seconds


class CannotServe(Exception):
    """The server cannot start; the message says why."""


@dataclass(frozen=True)
class Options:
    """What ``keyturn serve`` was asked for. ``port`` 0 means any free one."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    data: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def back_off(failures: int) -> float:
    """Seconds to wait before the next start after so many failures in a row."""
    return 0.0 if failures <= 0 else min(LONGEST_BACK_OFF, 0.5 * 2 ** (failures - 1))


def choose_port(host: str, port: int) -> int:
    """The port to listen on. Raises ``CannotServe`` where it is taken or may not be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotServe(f"Cannot listen on {host} port {port}: {error.strerror}.") from error
        chosen: int = probe.getsockname()[1]
    return chosen


def local_url(host: str, port: int) -> str:
    """An address that works on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{name}]:{port}" if ":" in name and "[" not in name else f"http://{name}:{port}"


@dataclass
class Child:
    """One kind of child process and its history."""

    role: Role
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    not_before: float = 0.0

    def note_end(self, now: float) -> None:
        self.failures = 1 if now - self.started_at >= HEALTHY_AFTER else self.failures + 1
        self.not_before = now + back_off(self.failures)
        self.process = None


class Supervisor:
    """Starts the children, starts them again when they end, and ends them when told to."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._port = choose_port(options.host, options.port)
        self._url = local_url(options.host, self._port)
        self._children = [Child(role) for role in ROLES]  # the web process first: it prepares
        self._stopping = False
        self._announced = False

    def run(self) -> int:
        """Prepare the installation, serve until SIGTERM or SIGINT, and return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            code = self._start_prepared(self._children[0])
            while code is None and not self._stopping:
                self._look_after(time.monotonic())
                self._announce()
                time.sleep(LOOK_EVERY)
        finally:
            self._end_all()
        return code or 0

    def _start_prepared(self, web: Child) -> int | None:
        """Start the web process, which prepares the installation first; wait for that.

        Returns the exit code of a process that could not.
        """
        ours, theirs = os.pipe()
        try:
            self._start(web, KEYTURN_PREPARED_FD=str(theirs), pass_fds=(theirs,))
        finally:
            os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as told:
            while not self._stopping:
                if select.select([told], [], [], LOOK_EVERY)[0]:
                    return None if told.read(1) else self._gave_up(web)
        return None

    @staticmethod
    def _gave_up(child: Child) -> int:
        assert child.process is not None
        code = child.process.wait()
        return code if code > 0 else 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # No more than this: another signal may come at any line of it, and whatever takes a lock would wait
        # for itself. The kernel sends one for each thread of a parent that is killed.
        self._stopping = True

    def _look_after(self, now: float) -> None:
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                child.note_end(now)
                pause = back_off(child.failures)
                _say(f"The {child.role} process ended ({code}); starting it again in {pause:.1f} s.")
            if child.process is None and now >= child.not_before:
                self._start(child)

    def _start(self, child: Child, *, pass_fds: Sequence[int] = (), **environment: str) -> None:
        child.process = subprocess.Popen(
            [sys.executable, "-m", "keyvault.project.children", child.role],
            env={**self._environment(), **environment},
            pass_fds=pass_fds,
            start_new_session=True,
        )
        child.started_at = time.monotonic()

    def _announce(self) -> None:
        if self._announced:
            return
        # Not above: the start of everything else does not wait for this import.
        from http.client import HTTPConnection, HTTPException

        name, _, port = self._url.removeprefix("http://").rpartition(":")
        connection = HTTPConnection(name, int(port), timeout=0.5)
        try:
            connection.request("GET", "/livez")
            # Any answer will do: with ALLOWED_HOSTS set, this address may be one that is refused.
            connection.getresponse()
        except (OSError, HTTPException):
            return
        finally:
            connection.close()
        self._announced = True
        _say(f"Keyturn answers at {self._url}")

    def _end_all(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_WITHIN
        for process in running:
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _environment(self) -> dict[str, str]:
        data = {} if self._options.data is None else {"KEYTURN_DATA": str(self._options.data.absolute())}
        return {
            **os.environ,
            **self._options.environment,
            **data,
            "KEYTURN_PARENT": str(os.getpid()),
            "KEYTURN_LISTEN_HOST": self._options.host,
            "KEYTURN_LISTEN_PORT": str(self._port),
            "KEYTURN_WORKERS": str(self._options.workers),
            # Weaker than KEYTURN_URL, whether that comes from the environment or from the .env file.
            "KEYTURN_DEFAULT_URL": self._url,
        }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def serve(options: Options) -> int:
    """Run until told to stop. Returns the exit code; raises ``CannotServe`` before anything is started."""
    return Supervisor(options).run()
