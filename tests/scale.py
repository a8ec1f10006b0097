"""How much a test does: ``make test`` at every change, ``make test-long`` when there is time."""

from __future__ import annotations

import os
from typing import Final

LONG: Final = os.environ.get("KEYTURN_TEST_LONG") == "1"


def scaled(name: str, normal: int, long: int) -> int:
    """``normal`` times, ``long`` in a long run, or what ``KEYTURN_TEST_<NAME>`` says."""
    asked = os.environ.get(f"KEYTURN_TEST_{name}")
    return int(asked) if asked else long if LONG else normal
