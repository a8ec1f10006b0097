"""Print the answers as they are now: ``python -m tests.access > tests/access/answers.csv``."""

from __future__ import annotations

import csv
import os
import sys

import django

import tests.bootstrap  # noqa: F401  prepares the environment before Django reads its settings

# ruff: noqa: E402  nothing of Django may be imported before this point
os.environ["KEYTURN_LOG_LEVEL"] = "CRITICAL"
django.setup()

from django.core.management import call_command
from django.test.utils import setup_test_environment

from keyvault import clock
from tests.access.asking import lines
from tests.access.house import CALLERS, build
from tests.access.routes import routes


def main() -> None:
    setup_test_environment()
    call_command("migrate", verbosity=0)
    house = build(clock.now())
    writer = csv.DictWriter(sys.stdout, ["route", "method", *CALLERS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines(house, routes()))


if __name__ == "__main__":
    main()
