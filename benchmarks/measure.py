"""Cases, and the rounds in which they are measured one after the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.load import Loader, Sample
from benchmarks.postgres import PostgreSQL
from benchmarks.processes import Cpu, Failed, Processes, cpu_of

Done = TypeVar("Done")

LONGEST_WARM_UP = 40  # times its seconds
KEPT_UP = 0.9  # share of the wanted commits that a writer must reach


@dataclass(frozen=True)
class Change:
    """Commits a second beside the load, and how many keys each of them changes."""

    per_second: int
    keys: int


class Writer:
    """The process that changes keys (writer.py), as one file descriptor and its answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.keys = int(self._answer()["keys"])

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the writer ended")
        told: dict[str, float] = json.loads(line)
        return told

    def _say(self, words: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        return self._answer()

    @contextmanager
    def busy(self, change: Change) -> Iterator[None]:
        """Changes go on inside the block. Raises ``Failed`` unless they all did, at the wanted pace."""
        self._say(f"go {change.per_second} {change.keys}")
        try:
            yield
        finally:
            told = self._say("stop")
        if "error" in told:
            raise Failed(f"the writer failed: {told['error']}")
        pace = told["commits"] / told["seconds"]
        if pace < change.per_second * KEPT_UP:
            raise Failed(f"the writer reached {pace:.1f} of {change.per_second} commits a second")


@dataclass(frozen=True)
class Case:
    """One thing that is measured. ``server`` is a process id, ``database`` the one it works with if any."""

    name: str
    title: str
    port: int
    workload: Path
    connections: int
    server: int
    database: str = ""
    change: Change | None = None
    delivers: bool = False
    distinct: int = 0  # different requests that are all asked once before the rounds; 0: too many for that


@dataclass(frozen=True)
class Figures:
    """One case in one round. Latencies in milliseconds; CPU in microseconds for each request."""

    sample: Sample
    server: Cpu
    database: Cpu
    per_commit: float | None = None

    @property
    def per_second(self) -> float:
        return self.sample.per_second

    @property
    def p50(self) -> float:
        return self.sample.p50

    @property
    def p99(self) -> float:
        return self.sample.p99

    @property
    def cpu(self) -> float:
        """Of everybody who works for a request."""
        return self.micros(self.server.total + self.database.total)

    def micros(self, seconds: float) -> float:
        return seconds / self.sample.requests * 1e6


@dataclass
class Results:
    """Figures by case, one for each round; or why there are none."""

    figures: dict[str, list[Figures]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, case: Case, figures: Figures) -> None:
        self.figures.setdefault(case.name, []).append(figures)

    def fail(self, case: Case, why: str) -> None:
        self.failures[case.name] = why
        self.figures.pop(case.name, None)


class Bench:
    """Measures cases against servers that are up."""

    def __init__(
        self,
        processes: Processes,
        postgres: PostgreSQL,
        loader: Loader,
        *,
        say: Callable[[str], None],
        profile: bool,
    ) -> None:
        self._processes = processes
        self._postgres = postgres
        self._loader = loader
        self.writer: Writer | None = None
        self.answered: dict[str, int] = {}  # requests by case, the warm-up included
        self._warm: set[Path] = set()  # workloads that nothing changed since they were all asked for
        self._say = say
        self._profile = profile

    def run(
        self, cases: Sequence[Case], results: Results, *, rounds: int, seconds: int, warm_up: int
    ) -> None:
        """Warm every case up, then measure all of them in every round, the quiet ones without what the
        changes of a case before left to be read again.

        A case that fails is noted and left out from then on; the others go on.
        """
        for case in cases:
            self._attempt(case, results, partial(self._warm_up, case, warm_up))
        for number in range(1, rounds + 1):
            self._say(f"round {number} of {rounds}")
            for case in cases:
                figures = self._attempt(case, results, partial(self._in_turn, case, warm_up, seconds))
                if figures is not None:
                    results.add(case, figures)

    def _attempt(self, case: Case, results: Results, work: Callable[[], Done]) -> Done | None:
        if case.name in results.failures:
            return None
        try:
            return work()
        except Failed as error:
            results.fail(case, str(error))
            self._say(f"FAILED: {case.name}: {error}")
            return None

    def _warm_up(self, case: Case, seconds: int) -> None:
        """Ask for everything once where that can be done, then as in a round."""
        self._ask_for_all(case, seconds)
        self._measure(case, seconds)

    def _in_turn(self, case: Case, warm_up: int, seconds: int) -> Figures:
        if case.change is None:
            self._ask_for_all(case, warm_up)
        return self._measure(case, seconds)

    def _ask_for_all(self, case: Case, seconds: int) -> None:
        if case.workload in self._warm:
            return
        asked, turns = 0, 0
        while asked < case.distinct:
            sample = self._loader.run(case.port, case.workload, case.connections, seconds, place=asked)
            self._count(case, sample)
            asked, turns = asked + sample.requests, turns + 1
            if turns == LONGEST_WARM_UP:
                raise Failed(f"after {turns * seconds} s only {asked} of {case.distinct} were asked for")
        self._warm.add(case.workload)

    def _count(self, case: Case, sample: Sample) -> None:
        self.answered[case.name] = self.answered.get(case.name, 0) + sample.requests

    def _measure(self, case: Case, seconds: int) -> Figures:
        before = self._spent(case)
        mark = self._mark(case)
        with self._changes(case):
            sample = self._loader.run(case.port, case.workload, case.connections, seconds)
        after = self._spent(case)
        self._count(case, sample)
        if case.change is not None:
            self._warm.clear()
        return Figures(
            sample,
            after[0] - before[0],
            after[1] - before[1],
            per_commit=self._records_per_commit(case, mark),
        )

    def _changes(self, case: Case) -> AbstractContextManager[None]:
        if case.change is None:
            return nullcontext()
        assert self.writer is not None
        return self.writer.busy(case.change)

    def _spent(self, case: Case) -> tuple[Cpu, Cpu]:
        return cpu_of(case.server), cpu_of(self._postgres.pid) if case.database else Cpu()

    def _mark(self, case: Case) -> int:
        """The last record before a measurement."""
        if not self._profile or not case.database:
            return 0
        return self._postgres.number(case.database, "SELECT coalesce(max(id), 0) FROM keyvault_delivery")

    def _records_per_commit(self, case: Case, mark: int) -> float | None:
        """How many deliveries one transaction recorded: the size of a group commit."""
        if not self._profile or not case.database:
            return None
        one = "SELECT count(DISTINCT xmin::text) FROM keyvault_delivery WHERE id > "
        many = "SELECT count(*) FROM keyvault_delivery WHERE id > "
        commits = self._postgres.number(case.database, f"{one}{mark}")
        return self._postgres.number(case.database, f"{many}{mark}") / commits if commits else None
