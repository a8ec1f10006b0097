"""Death at migrations: ``python -m tests.crash.migrating``. Prints what was counted as JSON.

A fork of this process migrates and is killed by itself when Django records a migration at which nobody has
died yet. The next one goes on from there. It ends when one comes through.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.migrations.recorder import MigrationRecorder  # noqa: E402

MOST_LIVES = 200


def die_once(deaths: Path, apps: list[str]) -> None:
    """Be killed at the first migration of one of these apps, or else at any, where nobody has died yet."""
    record = MigrationRecorder.record_applied

    def dying(self: MigrationRecorder, app: str, name: str) -> None:
        place = app if apps else f"{app}.{name}"
        if (not apps or app in apps) and place not in deaths.read_text(encoding="ascii").split():
            with deaths.open("a", encoding="ascii") as file:
                file.write(f"{place}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        record(self, app, name)

    MigrationRecorder.record_applied = dying  # type: ignore[method-assign]


def one_life(deaths: Path, apps: list[str]) -> int:
    """Migrate in a fork; returns how it ended, as ``os.waitstatus_to_exitcode`` tells it."""
    connection.close()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            die_once(deaths, apps)
            call_command("migrate", verbosity=0, stdout=sys.stderr)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deaths", type=Path, required=True, help="a file that is not there yet")
    parser.add_argument("--apps", nargs="*", default=[], help="die once in each, not at every migration")
    options = parser.parse_args()
    options.deaths.touch(exist_ok=False)
    for _ in range(MOST_LIVES):
        ended = one_life(options.deaths, options.apps)
        if ended != -signal.SIGKILL:
            break
    died = options.deaths.read_text(encoding="ascii").split()
    problems = [] if ended == 0 else [f"after the death at {died[-1]} nobody can migrate"]
    sys.stdout.write(json.dumps({"deaths": len(died), "problems": problems}) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
