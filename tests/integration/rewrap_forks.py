"""Run as a program: a process that forks one that rewraps for each line that it reads.

``rewrap`` moves the rows of prod, ``replace`` adds a KEK and makes it the primary before. A start costs
milliseconds instead of seconds. It prints the child's pid, and how it ended (minus the signal).
"""

from __future__ import annotations

import os
import sys

import django


def tell(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def work(what: str) -> None:
    # Models are importable only after Django is set up.
    from keyvault import clock
    from keyvault.actors import SYSTEM
    from keyvault.services import keks
    from keyvault.services.rewrap import rewrap_environment

    if what == "replace":
        keks.promote(SYSTEM, "prod", keks.add(SYSTEM, "prod", now=clock.now()), now=clock.now())
    rewrap_environment(SYSTEM, "prod", now=clock.now())


def main() -> None:
    django.setup()
    import keyvault.services.rewrap  # noqa: F401  (what every fork needs)

    tell("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            work(line.strip())
            os._exit(0)
        tell(child)
        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
