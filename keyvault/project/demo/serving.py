"""Keyturn itself, as a process of its own, with a data directory and settings that are only the demo's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from keyvault.crypto.secret import Secret
from keyvault.project.demo.trouble import DemoError
from keyvault.project.demo.wire import Wire

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 300.0
STOP_SECONDS: Final = 60.0  # more than the supervisor gives its children
# The first argument is our pid: what we start must not outlive us, however we end.
_PROGRAM: Final = """
import sys
from keyvault.project.guard import die_with_parent
die_with_parent(int(sys.argv.pop(1)))
from keyvault.project.cli import main
sys.exit(main())
"""


def is_free(port: int) -> bool:
    """May we listen there?"""
    try:
        return bool(free_port(port))
    except DemoError:
        return False


def free_port(port: int) -> int:
    """``port`` itself, or any free one for 0. Raises ``DemoError`` where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DemoError(
                f"Port {port} is taken by another program. Choose one with --port, for example "
                f"--port {port + 1}; --port 0 takes any free one."
            ) from error
        return int(probe.getsockname()[1])


def environment(data: Path, base_url: str, allow: Sequence[str]) -> dict[str, str]:
    """The environment of the demo's Keyturn.

    Every place where a real installation might be is set, to empty where the default is meant: what the
    user's shell or .env file says must not lead the demo to real data.
    """
    ours = {
        "KEYTURN_ENV_FILE": os.devnull,
        "KEYTURN_DATA": str(data),
        "KEYTURN_URL": base_url,
        "KEYTURN_SECRET_KEY": "",
        "KEYTURN_KEYRING": str(data / "keyring.json"),
        "KEYTURN_KEYRING_JSON": "",
        "KEYTURN_EGRESS_ALLOW": ",".join(allow),
        "KEYTURN_TICK": "1",
        "KEYTURN_DEBUG": "false",
        "KEYTURN_TRUSTED_PROXIES": "",
        "DATABASE_URL": "",
        "CELERY_BROKER_URL": "",
        "CACHE_URL": "",
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "DJANGO_SETTINGS_MODULE": "keyvault.project.settings",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **ours}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, str(os.getpid()), *arguments]


class Keyturn:
    """``keyturn serve`` and the commands that belong to it. Use as a context manager."""

    def __init__(self, data: Path, port: int, allow: Sequence[str]) -> None:
        self.data = data
        self.base_url = f"http://{HOST}:{port}"
        self.log = data / "demo.log"
        self._port = port
        self._environment: Mapping[str, str] = environment(data, self.base_url, allow)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Keyturn:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it is ready. Raises ``DemoError``."""
        arguments = ("serve", "--data", str(self.data), "--host", HOST, "--port", str(self._port))
        # Private: the log holds the link that makes the first administrator.
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            self._process = subprocess.Popen(
                _command(*arguments),
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo; it stops the server when the consumers have stopped.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None:
                raise DemoError(
                    f"Keyturn did not start (exit {self._process.returncode}):\n{self.last_words()}"
                )
            if time.monotonic() > deadline:
                raise DemoError(f"Keyturn was not ready after {START_SECONDS:.0f} s:\n{self.last_words()}")
            time.sleep(0.1)

    def alive(self) -> bool:
        """Does the process still run?"""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it and everything that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def command(self, *arguments: str, text: str | None = None) -> str:
        """Run a command of this installation; ``text`` goes to its standard input. Returns what it printed.

        Raises ``DemoError`` with what it printed as an error.
        """
        done = subprocess.run(
            _command(*arguments),
            env=dict(self._environment),
            input=text,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"keyturn {arguments[0]} failed (exit {done.returncode}): {done.stderr.strip()}")
        return done.stdout.strip()

    def user_token(self, username: str) -> Secret:
        """A token of an administrator with this name, who is created where there is none."""
        return Secret(self.command("token", username, "--admin"))

    def last_words(self) -> str:
        """The end of the log, for an error message."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        # A logged traceback is one long line; its beginning tells enough to know where to look.
        lines = [f"    {line[:300]}" for line in text.splitlines()[-12:]]
        return "\n".join([*lines, f"The whole log: {self.log}"])

    def _ready(self) -> bool:
        wire = Wire(self.base_url)
        try:
            return wire.send("GET", "/readyz").status == 200
        except OSError:
            return False
        finally:
            wire.close()
