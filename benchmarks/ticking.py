"""How long one beat of the scheduler takes when nothing is due: ``python -m benchmarks.ticking BEATS``."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
django.setup()

from keyvault import clock  # noqa: E402
from rotation.services import ticking  # noqa: E402

WARM_UP = 3  # beats; the first ones open the connection and plan


def ring(operation_id: uuid.UUID) -> None:
    raise RuntimeError("an operation is due: this is no idle tick")


def beat() -> float:
    started = time.perf_counter()
    if ticking.tick(clock.now(), ring=ring):
        raise RuntimeError("a rotation is due: this is no idle tick")
    return time.perf_counter() - started


def main() -> int:
    taken = [beat() for _ in range(WARM_UP + int(sys.argv[1]))]
    print(json.dumps([seconds * 1000 for seconds in taken[WARM_UP:]]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
