"""What is measured, in the order of a round: what is compared stands together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmarks.measure import Change


@dataclass(frozen=True)
class Plan:
    """One case before there is a server for it. ``target`` is who is asked what (scene.py)."""

    name: str
    title: str
    target: str
    connections: int = 64
    change: Change | None = None


PLANS: Sequence[Plan] = (
    Plan("kv-64", "OpenBao KV v2 read, audited", "kv"),
    Plan("delivery-64", "delivery", "delivery"),
    Plan("hello-64", "hello world", "hello"),
    Plan("changes-10", "delivery, 10 changes/s", "delivery", change=Change(10, 1)),
    Plan("changes-20x500", "delivery, 20 x 500 changes/s", "delivery", change=Change(20, 500)),
    Plan("kv-8", "OpenBao KV v2 read, audited", "kv", 8),
    Plan("delivery-8", "delivery", "delivery", 8),
    Plan("hello-8", "hello world", "hello", 8),
    Plan("kv-1", "OpenBao KV v2 read, audited", "kv", 1),
    Plan("delivery-1", "delivery", "delivery", 1),
    Plan("hello-1", "hello world", "hello", 1),
    Plan("lookup-64", "OpenBao lookup-self, audited", "lookup"),
    Plan("verify-64", "verify", "verify"),
    Plan("lookup-unaudited-64", "OpenBao lookup-self, not audited", "lookup-unaudited"),
    Plan("small-64", "delivery, 1,000 keys", "small"),
    Plan("large-hot-64", "delivery, {keys} keys, 1,000 asked", "large-hot"),
    Plan("large-any-64", "delivery, {keys} keys, any asked", "large-any"),
)
STARTS, TICK, DUE, COMMIT, CONSOLE, AUDIT = "starts", "tick", "due", "commit", "console", "audit"
EXTRAS = (STARTS, TICK, DUE, COMMIT, CONSOLE, AUDIT)
NAMES = (*(plan.name for plan in PLANS), *EXTRAS)


@dataclass(frozen=True)
class Scale:
    """How large and how long. ``keys`` are those of the large installation, ``hot`` those of the main one."""

    keys: int
    hot: int
    rounds: int
    seconds: int
    starts: int
    small: int = 1_000
    shifting: int = 500  # keys of the main installation that are in the middle of a shift
    beats: int = 30
    due: int = 10_000  # rotations; as many keys of the large installation are in the middle of a shift
    commits: int = 2_000  # of each size
    pages: int = 100_000  # keys of the installation whose pages are asked for
    views: int = 60  # of each page
    events: int = 200_000  # of the audit trail that is proved

    @property
    def warm_up(self) -> int:
        return max(2, self.seconds)


FULL = Scale(keys=1_000_000, hot=10_000, rounds=5, seconds=3, starts=5)
QUICK = Scale(
    keys=20_000, hot=2_000, rounds=3, seconds=1, starts=1, due=200, pages=20_000, views=20, events=20_000
)


def chosen(only: Collection[str]) -> list[Plan]:
    """The plans of these names; all without any."""
    return [plan for plan in PLANS if not only or plan.name in only]


def needed(plans: Collection[Plan], extras: Collection[str]) -> set[str]:
    """Which servers and installations these need."""
    by_target = {
        "kv": "openbao",
        "lookup": "openbao",
        "lookup-unaudited": "openbao-unaudited",
        "hello": "hello",
        "delivery": "main",
        "verify": "main",
        "small": "small",
        "large-hot": "large",
        "large-any": "large",
    }
    beside = {TICK: "large", DUE: "large", COMMIT: "main", CONSOLE: "pages", AUDIT: "small"}
    return {by_target[plan.target] for plan in plans} | {beside[name] for name in extras if name in beside}
