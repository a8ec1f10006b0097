"""Run as a program: a process that forks one that rewraps for each line of arguments it reads.

A start costs milliseconds instead of seconds. It prints the child's pid, and how it ended (minus the signal).
"""

from __future__ import annotations

import os
import sys

import django
from django.core.management import call_command


def tell(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main() -> None:
    django.setup()
    tell("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call_command("rewrap", "--environment", "prod", *line.split(), stdout=sys.stderr)
            os._exit(0)
        tell(child)
        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
