"""A Redis server of a test's own, which the test may kill and start again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.processes import end, start, wait_for


class RedisServer:
    """A server on 127.0.0.1 that keeps nothing; ``url`` stays the same from start to start."""

    def __init__(self, folder: Path, port: int) -> None:
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("redis-server is not installed on this machine")
        self._program = found
        self._folder = folder
        self.port = port
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def start(self) -> None:
        self._starts += 1
        log = self._folder / f"redis-{self._starts}.log"
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self._folder)]
        self._process = start(command, {"PATH": "/usr/bin:/bin"}, log)
        wait_for(lambda: "Ready to accept connections" in log.read_text(), "Redis is ready")

    def kill(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None
