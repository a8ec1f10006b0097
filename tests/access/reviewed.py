"""The file that people review."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("answers.csv")

Line = dict[str, str]


@cache
def reviewed() -> tuple[Line, ...]:
    """Its lines: ``route``, ``method``, and a cell for each caller."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def name_of(line: Line) -> str:
    return f"{line['method']} {line['route']}"
