"""``make bench``: start everything, measure in interleaved rounds, print the table (docs/benchmarks.md)."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.goals import number, table
from benchmarks.plans import FULL, NAMES, QUICK, Scale
from benchmarks.processes import Cores, Failed, stop_at_signals
from benchmarks.profiling import hottest_table
from benchmarks.run import Run, say

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
LEAST_KEYS = 2_000


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description="Keyturn beside OpenBao, as ratios of one run."
    )
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}")
    parser.add_argument("--seconds", type=int, help=f"of each measurement, default {FULL.seconds}")
    parser.add_argument("--keys", type=int, help=f"of the largest installation, default {FULL.keys:,}")
    parser.add_argument("--quick", action="store_true", help="small and short: to see whether it works")
    parser.add_argument("--no-pin", action="store_true", help="let servers and loader share every core")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--profile", action="store_true", help="more columns: where the CPU time goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep everything that was measured")
    parser.add_argument("--write", action="store_true", help=f"put the figures into docs/{PAGE.name}")
    found = parser.parse_args(given)
    if found.keys is not None and found.keys < LEAST_KEYS:
        parser.error(f"--keys must be at least {LEAST_KEYS}")
    for name in ("rounds", "seconds"):
        if getattr(found, name) is not None and getattr(found, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return found


def command_of(asked: argparse.Namespace) -> str:
    """The command with the options that matter for the figures; never with a path of this machine."""
    words = []
    for name in ("rounds", "seconds", "keys"):
        if getattr(asked, name) is not None:
            words += [f"--{name}", str(getattr(asked, name))]
    words += [
        f"--{name.replace('_', '-')}" for name in ("quick", "no_pin", "profile") if getattr(asked, name)
    ]
    if asked.only:
        words += ["--only", *asked.only]
    return f'make bench ARGS="{shlex.join(words)}"' if words else "make bench"


def scale_of(asked: argparse.Namespace) -> Scale:
    given = {name: getattr(asked, name) for name in ("rounds", "seconds", "keys")}
    return replace(
        QUICK if asked.quick else FULL, **{name: count for name, count in given.items() if count is not None}
    )


def figures_block(run: Run, shape: dict[str, str], command: str, *, profile: bool) -> str:
    """The figures as Markdown."""
    lines = [
        line for line in table(run.results.figures, run.beside) if line.spread is not None or not run.partial
    ]
    placed = "servers on one core, loader on another" if run.cores.pinned else "nothing pinned"
    memory = [
        f"- {name}: {number(held.resident / 1e6)} MB resident, {number(held.proportional / 1e6)} MB its share"
        for name, held in run.memory.items()
    ]
    parts = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}. Medians; rounds: {run.scale.rounds}, "
        f"{run.scale.seconds} s for each case in each; {placed}.",
        report.goals_table(lines) if lines else "",
        report.cases_table(run.cases, run.results, profile=profile),
        "\n".join(["Memory after the rounds:", "", *memory]) if memory else "",
        "\n".join(["Measured on:", "", *machine.lines(shape)]),
        *(f"Where the time of {title} goes:\n\n{hottest_table(hot)}" for title, hot in run.profiles.items()),
        "\n".join(f"FAILED: {name}: {why}" for name, why in run.results.failures.items()),
    ]
    return "\n\n".join(part for part in parts if part)


def keep(run: Run, path: Path, shape: dict[str, str], command: str) -> None:
    more: dict[str, Any] = {
        "command": command,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": shape,
        "scale": asdict(run.scale),
        "pinned": run.cores.pinned,
        "beside": asdict(run.beside),
        "memory": {name: asdict(held) for name, held in run.memory.items()},
    }
    lines = table(run.results.figures, run.beside)
    path.write_text(json.dumps(report.document(lines, run.cases, run.results, **more), indent=2) + "\n")


def main(given: Sequence[str]) -> int:
    """Exit code 0 if everything was measured, whether or not the goals were met; 1 if something failed."""
    asked = arguments(given)
    if sys.platform != "linux":
        say("make bench needs Linux: it reads /proc and places processes on cores.")
        return 1
    stop_at_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as name:
            folder = Path(name).resolve()
            cores = Cores.choose(pin=not asked.no_pin)
            run = Run(folder, scale_of(asked), cores, only=asked.only, profile=asked.profile)
            run.measure()
            shape = {**machine.describe(folder), **run.software}
    except Failed as error:
        say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    command = command_of(asked)
    block = figures_block(run, shape, command, profile=asked.profile)
    print(block)
    if asked.json:
        keep(run, asked.json, shape, command)
    if asked.write:
        report.write_into(PAGE, block)
    return 1 if run.results.failures else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
