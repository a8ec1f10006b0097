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

from benchmarks import machine, openbao, report
from benchmarks.goals import Beside, number, table
from benchmarks.keyturn import cold_start
from benchmarks.load import Loader
from benchmarks.measure import Bench, Case, Results
from benchmarks.plans import EXTRAS, FULL, NAMES, QUICK, STARTS, TICK, Scale, chosen, needed
from benchmarks.postgres import PostgreSQL
from benchmarks.processes import Cores, Failed, Memory, Processes, quiet_signals, running_on
from benchmarks.scene import Scene

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
LEAST_KEYS = 2_000


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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


class Run:
    """One run, from an empty directory to its results."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.scale = scale_of(asked)
        self.cores = Cores.choose(pin=not asked.no_pin)
        self.cases: list[Case] = []
        self.results = Results()
        self.beside = Beside(keys=self.scale.keys)
        self.memory: dict[str, Memory] = {}
        self.software: dict[str, str] = {}
        self._folder = folder
        self._plans = chosen(asked.only)
        self._extras = [name for name in EXTRAS if not asked.only or name in asked.only]
        self._profile = asked.profile
        self.partial = bool(asked.only)

    def measure(self) -> None:
        logs = self._folder / "logs"
        logs.mkdir()
        with PostgreSQL(self._folder / "postgresql") as postgres, Processes(logs) as processes:
            loader = Loader(processes)
            self.software = {
                "PostgreSQL": postgres.version,
                "OpenBao": openbao.version(),
                "loader": loader.name,
            }
            scene = Scene(processes, postgres, self._folder, self.scale, self.cores, say)
            scene.start(needed(self._plans, self._extras))
            with running_on(self.cores.loader):
                self._rounds(Bench(processes, postgres, loader, say=say, profile=self._profile), scene)
                self._look_around(scene, processes)
        if STARTS in self._extras:
            with Processes(logs) as processes:
                self._starts(processes)

    def _rounds(self, bench: Bench, scene: Scene) -> None:
        self.cases = [scene.case(plan) for plan in self._plans]
        bench.writer = scene.start_writer()
        scene.check_answers()
        if any(plan.target == "verify" for plan in self._plans) and (why := scene.check_verify()):
            self.results.failures["verify-64"] = why
            say(f"FAILED: {why}")
        bench.run(
            self.cases,
            self.results,
            rounds=self.scale.rounds,
            seconds=self.scale.seconds,
            warm_up=self.scale.warm_up,
        )
        if any(case.change and case.name not in self.results.failures for case in self.cases):
            scene.check_changes()
        scene.check_records(self.cases, bench.answered)

    def _look_around(self, scene: Scene, processes: Processes) -> None:
        self.memory = scene.memory()
        large = scene.installations.get("large")
        if large is None:
            return
        self.beside = replace(self.beside, worker_memory=self.memory[scene.worker_name(large)].resident)
        if TICK in self._extras:
            say("idle ticks")
            command = large.module("benchmarks.ticking", str(self.scale.beats))
            printed = processes.run("ticking", command, large.environment)
            self.beside = replace(self.beside, idle_ticks=json.loads(printed))

    def _starts(self, processes: Processes) -> None:
        say("cold starts")
        cold, warm = [], []
        for turn in range(self.scale.starts):
            data = self._folder / f"start-{turn}"
            cold.append(cold_start(processes, data))
            warm.append(cold_start(processes, data))
        self.beside = replace(self.beside, cold_starts=cold, warm_starts=warm)


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
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}. Medians of {run.scale.rounds} rounds of "
        f"{run.scale.seconds} s for each case; {placed}.",
        report.goals_table(lines),
        report.cases_table(run.cases, run.results, profile=profile),
        "\n".join(["Memory after the rounds:", "", *memory]) if memory else "",
        "\n".join(["Measured on:", "", *machine.lines(shape)]),
        "\n".join(f"NOT MEASURED: {name}: {why}" for name, why in run.results.failures.items()),
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
    quiet_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as name:
            folder = Path(name).resolve()
            run = Run(asked, folder)
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
