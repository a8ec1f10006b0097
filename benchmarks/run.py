"""One run, from an empty directory to its results."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import openbao
from benchmarks.goals import Beside
from benchmarks.keyturn import cold_start
from benchmarks.load import Loader
from benchmarks.measure import Bench, Case, Results
from benchmarks.plans import AUDIT, COMMIT, CONSOLE, DUE, EXTRAS, STARTS, TICK, Plan, Scale, chosen, needed
from benchmarks.postgres import PostgreSQL
from benchmarks.processes import Cores, Failed, Memory, Processes, running_on
from benchmarks.profiling import Hot, sample
from benchmarks.scene import Scene

PROFILED = ("delivery-64", "verify-64")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """What was asked for, and what came of it. ``only``: names of plans and extras; all without any."""

    def __init__(
        self, folder: Path, scale: Scale, cores: Cores, *, only: Collection[str], profile: bool
    ) -> None:
        self.scale = scale
        self.cores = cores
        self.partial = bool(only)
        self.cases: list[Case] = []
        self.results = Results()
        self.beside = Beside(keys=self.scale.keys)
        self.memory: dict[str, Memory] = {}
        self.software: dict[str, str] = {}
        self.profiles: dict[str, list[Hot]] = {}  # by the title of the case
        self._folder = folder
        self._plans: Sequence[Plan] = chosen(only)
        self._extras = [name for name in EXTRAS if not only or name in only]
        self._profile = profile

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
                if self._profile:
                    self._sample(scene, processes, loader)
        if STARTS in self._extras:
            with Processes(logs) as processes:
                self._starts(processes)

    def _rounds(self, bench: Bench, scene: Scene) -> None:
        self.cases = [scene.case(plan) for plan in self._plans]
        bench.writer = scene.start_writer()
        scene.check_answers()
        if any(plan.target == "verify" for plan in self._plans) and (why := scene.check_verify()):
            self._fail("verify-64", why)
        bench.run(
            self.cases,
            self.results,
            rounds=self.scale.rounds,
            seconds=self.scale.seconds,
            warm_up=self.scale.warm_up,
        )
        try:
            if any(case.change for case in self.cases):
                scene.check_changes()
            scene.check_records(self.cases, bench.answered)
        except Failed as error:
            self._fail("afterwards", str(error))

    def _fail(self, name: str, why: str) -> None:
        self.results.failures[name] = why
        say(f"FAILED: {name}: {why}")

    def _sample(self, scene: Scene, processes: Processes, loader: Loader) -> None:
        for case in self.cases:
            if case.name in PROFILED and case.name not in self.results.failures:
                say(f"profile of {case.title}")
                worker = scene.installations["main"].worker.pid
                self.profiles[case.title] = sample(processes, loader, case, worker, self._folder)

    def _look_around(self, scene: Scene, processes: Processes) -> None:
        self.memory = scene.memory()
        if COMMIT in self._extras:
            say("commits alone")
            main = scene.installations["main"]
            command = main.module("benchmarks.committing", str(self.scale.commits))
            with running_on(self.cores.server):
                printed = processes.run("committing", command, main.environment)
            self.beside = replace(self.beside, commits={int(n): us for n, us in json.loads(printed).items()})
        if CONSOLE in self._extras:
            self._pages(scene, processes)
        if AUDIT in self._extras:
            self._prove(scene, processes)
        large = scene.installations.get("large")
        if large is None:
            return
        self.beside = replace(self.beside, worker_memory=self.memory[scene.worker_name(large)].resident)
        if TICK in self._extras:
            say("idle ticks")
            command = large.module("benchmarks.ticking", str(self.scale.beats))
            printed = processes.run("ticking", command, large.environment)
            self.beside = replace(self.beside, idle_ticks=json.loads(printed))
        if DUE in self._extras:
            say(f"{self.scale.due:,} rotations that are due")
            command = large.module("benchmarks.advancing", str(self.scale.due))
            told = json.loads(processes.run("advancing", command, large.environment))
            self.beside = replace(self.beside, due=told["rotations"], due_seconds=told["seconds"])

    def _pages(self, scene: Scene, processes: Processes) -> None:
        say("pages of the console")
        place = scene.installations["pages"]
        command = place.module("benchmarks.pages", str(self.scale.views))
        with running_on(self.cores.server):
            told = json.loads(processes.run("pages", command, place.environment))
        self.beside = replace(self.beside, pages=told, page_keys=self.scale.pages)

    def _prove(self, scene: Scene, processes: Processes) -> None:
        say(f"{self.scale.events:,} audit events that are proved")
        place = scene.installations["small"]
        command = place.module("benchmarks.proving", str(self.scale.events))
        told = json.loads(processes.run("proving", command, place.environment))
        self.beside = replace(self.beside, proved_per_second=told["events"] / told["seconds"])

    def _starts(self, processes: Processes) -> None:
        say("cold starts")
        cold, warm = [], []
        for turn in range(self.scale.starts):
            data = self._folder / f"start-{turn}"
            cold.append(cold_start(processes, data))
            warm.append(cold_start(processes, data))
        self.beside = replace(self.beside, cold_starts=cold, warm_starts=warm)
