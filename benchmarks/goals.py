"""From figures to ratios to the table of goals. Pure: nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Measured(Protocol):
    """One case in one round."""

    @property
    def per_second(self) -> float: ...

    @property
    def p50(self) -> float: ...

    @property
    def p99(self) -> float: ...

    @property
    def cpu(self) -> float: ...


Rounds = Mapping[str, Sequence[Measured]]

# Of the console, as benchmarks.pages asks for them.
PAGES = ("overview", "matrix", "keys", "search", "key", "rotation", "audit")

# Connections -> records in a commit: what arrives while one is under way goes with the next.
LEAST = {1: 1, 8: 4, 64: 32}


@dataclass(frozen=True)
class Spread:
    """A median and what it lies between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def ratio(
    rounds: Rounds, of: str, to: str, figure: Callable[[Measured], float] = lambda one: one.per_second
) -> Spread | None:
    """How ``of`` compares to ``to``: one ratio for each round, because only figures of one round compare.

    None unless both were measured in every round.
    """
    above, below = rounds.get(of, ()), rounds.get(to, ())
    if not above or len(above) != len(below):
        return None
    return Spread.of([figure(one) / figure(other) for one, other in zip(above, below, strict=True)])


@dataclass(frozen=True)
class Line:
    """One line of the table. ``limit`` None: told for information, there is no goal.

    ``unit``: "x" for a ratio, "ms", "s", "/s" or "MB".
    """

    work: str
    spread: Spread | None
    limit: float | None = None
    at_least: bool = True
    unit: str = "x"

    @property
    def verdict(self) -> str:
        if self.spread is None:
            return "NOT MEASURED"
        if self.limit is None:
            return ""
        reached = self.spread.median >= self.limit if self.at_least else self.spread.median <= self.limit
        return "met" if reached else "MISSED"

    @property
    def goal(self) -> str:
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)} {self.unit}"

    @property
    def measured(self) -> str:
        return "-" if self.spread is None else f"{number(self.spread.median)} {self.unit}"

    @property
    def between(self) -> str:
        if self.spread is None or self.spread.low == self.spread.high:
            return ""
        return f"{number(self.spread.low)} - {number(self.spread.high)}"


def number(figure: float) -> str:
    """Three digits that count, with commas: 0.0613, 2.41, 14.3, 25,300."""
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    if abs(figure) >= 10:
        return f"{figure:.1f}"
    return f"{figure:.2f}" if abs(figure) >= 1 else f"{figure:.3g}"


def p50(one: Measured) -> float:
    return one.p50


def p99(one: Measured) -> float:
    return one.p99


def cpu(one: Measured) -> float:
    return one.cpu


@dataclass(frozen=True)
class Beside:
    """What is measured beside the rounds. Seconds, milliseconds and bytes; empty: not measured."""

    cold_starts: Sequence[float] = ()
    warm_starts: Sequence[float] = ()
    idle_ticks: Sequence[float] = ()
    worker_memory: int = 0
    keys: int = 0
    due: int = 0  # rotations that one process looked at in ``due_seconds``
    due_seconds: float = 0.0
    commits: Mapping[int, float] = field(default_factory=dict)  # microseconds by the number of records
    pages: Mapping[str, float] = field(default_factory=dict)  # p95 in milliseconds, by the name of the page
    page_keys: int = 0
    proved_per_second: float = 0.0  # audit events, by one process


def least(rounds: Rounds, beside: Beside, connections: int, records: int) -> Sequence[Measured]:
    """What is left where nothing of ours runs: the server answering without a thought, and the commit of a
    batch alone, one after the other, as on one core. Empty where they were not measured."""
    commit = beside.commits.get(records)
    if commit is None:
        return ()
    return [Least(one.per_second, one.p50, commit, records) for one in rounds.get(f"hello-{connections}", ())]


@dataclass(frozen=True)
class Least:
    """``hello_per_second`` and ``hello_p50`` (ms) of "hello world"; ``commit`` of ``records``, in µs."""

    hello_per_second: float
    hello_p50: float
    commit: float
    records: int
    cpu: float = 0.0
    p99: float = 0.0

    @property
    def per_second(self) -> float:
        return 1 / (1 / self.hello_per_second + self.commit / self.records / 1e6)

    @property
    def p50(self) -> float:
        return self.hello_p50 + self.commit / 1000


def table(rounds: Rounds, beside: Beside) -> list[Line]:
    """Every goal about delivery and verification, in the order of the design, and what belongs beside it."""
    keys = f"{beside.keys:,}"
    rounds = {**rounds, **{f"least-{n}": least(rounds, beside, n, of) for n, of in LEAST.items()}}
    return [
        Line("delivery / OpenBao KV v2 read, 64 connections", ratio(rounds, "delivery-64", "kv-64"), 12),
        Line(
            "p99 of delivery / of OpenBao, 64 connections",
            ratio(rounds, "delivery-64", "kv-64", p99),
            1 / 8,
            False,
        ),
        Line("hello world and commit alone / OpenBao, 64", ratio(rounds, "least-64", "kv-64")),
        Line("CPU of delivery and PostgreSQL / of OpenBao, 64", ratio(rounds, "delivery-64", "kv-64", cpu)),
        Line("delivery / OpenBao KV v2 read, 8 connections", ratio(rounds, "delivery-8", "kv-8"), 6),
        Line("hello world and commit alone / OpenBao, 8", ratio(rounds, "least-8", "kv-8")),
        Line(
            "p50 of delivery / of OpenBao, 1 connection", ratio(rounds, "delivery-1", "kv-1", p50), 0.6, False
        ),
        Line("p50 of hello world and commit alone / of OpenBao, 1", ratio(rounds, "least-1", "kv-1", p50)),
        Line("delivery / OpenBao KV v2 read, 1 connection", ratio(rounds, "delivery-1", "kv-1")),
        Line("delivery / hello world of the same server, 64", ratio(rounds, "delivery-64", "hello-64"), 0.35),
        Line("delivery while 10 changes/s commit / quiet", ratio(rounds, "changes-10", "delivery-64"), 0.8),
        Line(
            "delivery while 20 x 500 keys/s change / quiet",
            ratio(rounds, "changes-20x500", "delivery-64"),
            0.5,
        ),
        Line("verify / OpenBao lookup-self, audited, 64", ratio(rounds, "verify-64", "lookup-64"), 12),
        Line(
            "verify / OpenBao lookup-self, not audited, 64", ratio(rounds, "verify-64", "lookup-unaudited-64")
        ),
        Line(
            f"{keys} keys / 1,000 keys, the same 1,000 asked", ratio(rounds, "large-hot-64", "small-64"), 0.9
        ),
        Line(f"{keys} keys / 1,000 keys, any of them asked", ratio(rounds, "large-any-64", "small-64")),
        Line(f"resident memory of a worker, {keys} keys", _one(beside.worker_memory / 1e6), 400, False, "MB"),
        Line("cold start to the first answer, nothing there", _some(beside.cold_starts), 3, False, "s"),
        Line("cold start to the first answer, set up before", _some(beside.warm_starts), 3, False, "s"),
        Line(f"idle tick, {keys} keys", _some(beside.idle_ticks), 5, False, "ms"),
        Line("audit_verify, events", _one(beside.proved_per_second), 50_000, unit="/s"),
        Line("10,000 due rotations, one process", _one(_for_ten_thousand(beside)), 60, False, "s"),
        *(
            Line(
                f"console: {page}, {beside.page_keys:,} keys, p95",
                _one(beside.pages.get(page, 0.0)),
                150,
                False,
                "ms",
            )
            for page in PAGES
        ),
    ]


def _for_ten_thousand(beside: Beside) -> float:
    return beside.due_seconds * 10_000 / beside.due if beside.due else 0.0


def _some(numbers: Sequence[float]) -> Spread | None:
    return Spread.of(numbers) if numbers else None


def _one(figure: float) -> Spread | None:
    return Spread.of([figure]) if figure else None
