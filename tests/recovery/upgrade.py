"""The upgrade drill: ``python -m tests.recovery.upgrade REVISION [--postgresql]``.

1. The code of REVISION, out of git, starts an installation and serves; callers read a key all the time.
2. The code of this checkout migrates the database. The old code goes on serving, and writing.
3. The new code starts beside it; the callers move; the old code ends.

It prints one line of JSON: requests and failures of each step. Exit code 1: a request failed, or old code
could not write to the new tables.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.api.wire import exchange
from tests.bootstrap import start_postgresql
from tests.integration.processes import end, start, wait_for

NEW = Path(__file__).resolve().parents[2]
CALLERS = 3
PAUSE = 0.01  # seconds between two requests of one caller
LEAST = 50  # requests in each step

# Run by the code of either version: rows through its own services.
_WRITE = """
import itertools, json, secrets, django
django.setup()
from tests.integration import furniture as making
making._names = itertools.count(secrets.randbelow(10**9))  # of each run its own
making.people.ensure_admin(f"admin-{secrets.token_hex(4)}", now=making.NOW)
furniture = making.furnish()
furniture.key()
row, _ = furniture.reader()
_, token = making.consumers.create_token(
    making.SYSTEM, row.consumer, furniture.environment(), expires_at=making.far_away(), now=making.NOW,
    rate_per_minute=1_000_000,
)
print(json.dumps({"service": furniture.service.slug, "token": token.expose()}))
"""
_PREPARE = "import django\ndjango.setup()\nfrom keyvault.project.installation import prepare\nprepare()\n"


class Callers:
    """Read a key without a pause, at whichever port is the present one; count what came, by step."""

    def __init__(self, port: int, key: Mapping[str, str]) -> None:
        self.port, self.step = port, "old code, old tables"
        self.seen: dict[str, Counter[int | str]] = {}
        self._path = f"/v1/keys/{key['service']}/prod/"
        self._headers = (("X-API-Key", key["token"]),)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._stopping.wait(PAUSE):
            step, answer = self.step, "no answer"
            with suppress(OSError):
                answer = str(exchange(self.port, "GET", self._path, self._headers, None).status)
            self.seen.setdefault(step, Counter())[answer] += 1

    def enter(self, step: str) -> None:
        self.step = step
        wait_for(lambda: sum(self.seen.get(step, Counter()).values()) >= LEAST, step)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)


def run(code: Path, environment: Mapping[str, str], text: str) -> str:
    """A program, run by the code in this folder."""
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=code, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def serve(code: Path, environment: Mapping[str, str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = start(
        [sys.executable, "-P", "-c", "from keyvault.project.children import web; web()"],
        {**environment, "KEYTURN_LISTEN_PORT": str(port), "PYTHONPATH": str(code)},
        log,
    )
    wait_for(lambda: _answers(port) or process.poll() is not None, "it answers")
    if process.poll() is not None:
        raise RuntimeError(log.read_text()[-3000:])
    return process, port


def _answers(port: int) -> bool:
    try:
        return exchange(port, "GET", "/v1/.well-known/jwks.json", (), None).status == 200
    except OSError:
        return False


def drill(revision: str, folder: Path, url: str, undo: Callable[[Callable[[], None]], Any]) -> dict[str, Any]:
    old = folder / "old"
    archive = subprocess.run(
        ["git", "-C", str(NEW), "archive", revision],
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(old, filter="data")
    (folder / "data").mkdir(mode=0o700)
    base = {
        **{name: text for name, text in os.environ.items() if not name.startswith("KEYTURN_")},
        "DJANGO_SETTINGS_MODULE": "keyvault.project.settings",
        "KEYTURN_DATA": str(folder / "data"),
        "KEYTURN_ENV_FILE": os.devnull,
        "KEYTURN_STATIC": "finders",
        "DATABASE_URL": url or f"sqlite:///{folder / 'data' / 'keyturn.sqlite3'}",
    }
    before = {**base, "PYTHONPATH": str(old)}
    after = {**base, "PYTHONPATH": str(NEW)}
    run(old, before, _PREPARE)
    key = json.loads(run(old, before, _WRITE))
    was, port = serve(old, base, folder / "old.log")
    undo(lambda: end(was))
    callers = Callers(port, key)
    undo(callers.stop)
    callers.enter("old code, old tables")
    callers.step = "migrating"
    began = time.monotonic()
    run(NEW, after, _PREPARE)
    seconds = time.monotonic() - began
    callers.enter("old code, new tables")
    refused = ""
    try:
        run(old, before, _WRITE)
    except RuntimeError as error:
        refused = str(error).strip().splitlines()[-1]
    now, callers_port = serve(NEW, base, folder / "new.log")
    undo(lambda: end(now))
    callers.port = callers_port
    callers.enter("new code")
    was.send_signal(signal.SIGTERM)
    wait_for(lambda: was.poll() is not None, "the old code ends")
    callers.enter("new code alone")
    callers.stop()
    run(NEW, after, _WRITE)
    return {
        "from": revision,
        "migrated in seconds": round(seconds, 1),
        "answers": {step: dict(seen) for step, seen in callers.seen.items()},
        "old code cannot write": refused,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="The upgrade drill.")
    parser.add_argument("revision")
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyturn-upgrade-") as folder, ExitStack() as undo:
        url = ""
        if options.postgresql:
            server = start_postgresql(Path(folder) / "postgresql")
            undo.callback(server.stop)
            url = str(server.get_uri())
        told = drill(options.revision, Path(folder), url, undo.callback)
    sys.stdout.write(json.dumps(told) + "\n")
    failed = {status for seen in told["answers"].values() for status in seen} - {"200"}
    return 1 if failed or told["old code cannot write"] else 0


if __name__ == "__main__":
    sys.exit(main())
