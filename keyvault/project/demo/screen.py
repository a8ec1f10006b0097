"""What a person sees while the demo runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final, TextIO

_HEADS: Final = ("key", "stage", "weight", "instances", "clock", "requests", "failed", "waiting for")
_RIGHT: Final = frozenset({"weight", "instances", "requests", "failed", "audit events", "seconds"})
_WIDEST: Final = 46


@dataclass(frozen=True)
class Row:
    """One rotation right now, ready to print."""

    key: str
    stage: str
    weight: str
    instances: str
    clock: str
    requests: str
    failed: str
    waiting_for: str

    @property
    def news(self) -> tuple[str, str, str]:
        """What is worth a line where lines cannot be overwritten."""
        return self.key, self.stage, self.weight


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns; figures stand at the right."""
    cells = [[_short(text) for text in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(heads), *cells]) for column in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if head in _RIGHT else text.ljust(width)
            for head, text, width in zip(heads, row, widths, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return [line(list(heads)), "  ".join("-" * width for width in widths), *(line(row) for row in cells)]


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


class Screen:
    """Writes to one stream, which is never standard output when that carries the result. Thread-safe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._drawn = 0
        self._told: dict[str, tuple[str, str, str]] = {}
        self._lock = threading.RLock()

    def say(self, text: str = "") -> None:
        """A line that stays."""
        with self._lock:
            self._wipe()
            self._write(text + "\n")

    def show(self, rows: Sequence[Row], seconds: float) -> None:
        """The state of all rotations, ``seconds`` after they began."""
        with self._lock:
            if self._live:
                self._draw(rows)
            else:
                self._tell(rows, seconds)

    def _draw(self, rows: Sequence[Row]) -> None:
        # A line that the terminal wraps would be two to climb over.
        width = shutil.get_terminal_size().columns - 1
        lines = [line[:width] for line in table(_HEADS, [astuple(row) for row in rows])]
        self._wipe()
        self._write("\n".join(lines) + "\n")
        self._drawn = len(lines)

    def _tell(self, rows: Sequence[Row], seconds: float) -> None:
        for row in rows:
            if self._told.get(row.key) != row.news:
                self._told[row.key] = row.news
                facts = ", ".join(
                    text
                    for text in (
                        row.weight and f"weight {row.weight}",
                        row.instances and f"{row.instances} instances on the new key",
                        f"{row.failed} of {row.requests} requests failed",
                    )
                    if text
                )
                self._write(f"{seconds:6.1f} s  {row.key:<28} {row.stage:<12} {facts}\n")

    def keep(self) -> None:
        """Leave what is drawn where it is; what comes next goes below."""
        with self._lock:
            self._drawn = 0

    def _wipe(self) -> None:
        if self._drawn:
            # Up over our own lines, then clear to the end of the screen.
            self._write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
