"""What a run prints, keeps as JSON, and writes into docs/benchmarks.md. Pure, but for that one file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.goals import Line, number
from benchmarks.measure import Case, Figures, Results

BEGIN, END = "<!-- figures of a run: written by make bench -->", "<!-- end of the figures -->"


def grid(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table that reads well as text too. The first row is the head; ``left`` columns are words."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def goals_table(lines: Sequence[Line]) -> str:
    head = ("Work", "measured", "rounds", "goal", "verdict")
    return grid([head, *((one.work, one.measured, one.between, one.goal, one.verdict) for one in lines)])


def cases_table(cases: Sequence[Case], results: Results, *, profile: bool) -> str:
    """Medians of each case. CPU: microseconds for each request."""
    head = ["Case", "connections", "requests/s", "p50 ms", "p99 ms", "CPU µs: server", "database"]
    if profile:
        head += ["server user", "system", "database user", "system", "records/commit"]
    rows = [head]
    for case in cases:
        rounds = results.figures.get(case.name)
        if not rounds:
            rows.append([case.title, str(case.connections), *["-"] * (len(head) - 2)])
            continue
        rows.append([case.title, str(case.connections), *_medians(case, rounds, profile=profile)])
    return grid(rows)


def _medians(case: Case, rounds: Sequence[Figures], *, profile: bool) -> list[str]:
    def median(figure: Callable[[Figures], float]) -> str:
        return number(statistics.median(map(figure, rounds)))

    def of_database(figure: Callable[[Figures], float]) -> str:
        return median(figure) if case.database else ""

    cells = [median(lambda one: one.per_second), median(lambda one: one.p50), median(lambda one: one.p99)]
    cells.append(median(lambda one: one.micros(one.server.total)))
    cells.append(of_database(lambda one: one.micros(one.database.total)))
    if profile:
        cells.append(median(lambda one: one.micros(one.server.user)))
        cells.append(median(lambda one: one.micros(one.server.system)))
        cells.append(of_database(lambda one: one.micros(one.database.user)))
        cells.append(of_database(lambda one: one.micros(one.database.system)))
        sizes = [one.per_commit for one in rounds if one.per_commit is not None]
        cells.append(number(statistics.median(sizes)) if sizes else "")
    return cells


def document(lines: Sequence[Line], cases: Sequence[Case], results: Results, **more: Any) -> dict[str, Any]:
    """The run as JSON can hold it."""
    goals = [
        {
            "work": one.work,
            "measured": None if one.spread is None else asdict(one.spread),
            "unit": one.unit,
            "goal": one.goal,
            "verdict": one.verdict,
        }
        for one in lines
    ]
    measured = {
        case.name: {
            "title": case.title,
            "connections": case.connections,
            "rounds": [_as_dict(figures) for figures in results.figures.get(case.name, [])],
        }
        for case in cases
    }
    return {**more, "goals": goals, "cases": measured, "failures": results.failures}


def _as_dict(figures: Figures) -> dict[str, Any]:
    return {"per_second": figures.per_second, **asdict(figures)}


def write_into(path: Path, block: str) -> None:
    """Replace what stands between the two marks. Raises ``ValueError`` where they are missing."""
    text = path.read_text(encoding="utf-8")
    before, began, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not began or not ended:
        raise ValueError(f"{path.name} has lost the marks around its figures.")
    path.write_text(f"{before}{BEGIN}\n\n{block.strip()}\n\n{END}{after}", encoding="utf-8")
