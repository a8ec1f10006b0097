"""The rotation policy as a value: what people choose, and what a running rotation carries with it.

Durations are ISO 8601 in JSON (``P90D``, ``PT10M``) and ``timedelta`` here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import available_timezones

from keyvault.durations import format_duration as format_duration
from keyvault.durations import parse_duration as parse_duration
from rotation.windows import WEEKDAYS as WEEKDAYS
from rotation.windows import Closed, closed, frozen_time
from rotation.windows import Freeze as Freeze
from rotation.windows import Window as Window

# The transitions that a policy may ask other people's approval for.
APPROVALS = ("start", "shift_past_50", "revoke", "force")
EXPOSURES = ("revealed", "member_left", "reported")


_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # as names are elsewhere; rules know no models
_CLOCK = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


class PolicyError(ValueError):
    """A policy that cannot be; ``field`` names the member that is wrong."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


_EXPOSURE: Mapping[str, timedelta | None] = {
    "revealed": timedelta(days=7),
    "member_left": timedelta(days=1),
    "reported": timedelta(0),
}


@dataclass(frozen=True)
class Step:
    """One weight (1-100) and the least time on it."""

    weight: int
    hold: timedelta


@dataclass(frozen=True)
class Policy:
    """How a key is replaced. See the field names of the HTTP contract, section Management."""

    interval: timedelta | None = timedelta(days=90)
    steps: tuple[Step, ...] = (
        Step(5, timedelta(minutes=10)),
        Step(25, timedelta(minutes=10)),
        Step(50, timedelta(minutes=30)),
        Step(100, timedelta(minutes=30)),
    )
    monitor: timedelta = timedelta(hours=24)
    quiet: timedelta = timedelta(hours=2)
    cool_off: timedelta = timedelta(hours=24)
    deadline: timedelta = timedelta(days=7)
    window: timedelta = timedelta(minutes=5)
    probe_every: timedelta = timedelta(minutes=5)
    refresh: timedelta = timedelta(seconds=30)
    min_samples: int = 20
    max_error_rate: float = 0.02
    allow_idle: bool = False
    approvals: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(APPROVALS, 0))
    windows: tuple[Window, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    canaries: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    # An emergency does not wait for stragglers for ever: the outgoing key is revoked this long after
    # the incoming one answers everybody, quiet or not. None: it waits for the proof or for a person.
    force_after: timedelta | None = None
    # No version is to be honoured longer than this; it counts from the import where its age is not known.
    max_age: timedelta | None = None
    # A protected environment starts only if the same service was rotated in a lower one within this span.
    rehearsal: timedelta | None = None
    # The provider allows one key at a time: the outgoing version ends before the incoming one exists.
    cutover: bool = False
    # How soon a version is to be replaced once more people know it than should. None: no date of its own.
    exposure: Mapping[str, timedelta | None] = field(default_factory=lambda: dict(_EXPOSURE))

    @property
    def length(self) -> timedelta:
        """The least time from the start to the end, if all goes well."""
        shift = sum((max(step.hold, 2 * self.check_every) for step in self.steps), timedelta(0))
        return shift + max(self.monitor, self.quiet_needed) + self.cool_off

    @property
    def check_every(self) -> timedelta:
        """How often a verdict is taken: a tenth of the window, between 1 and 30 seconds."""
        return min(max(self.window / 10, timedelta(seconds=1)), timedelta(seconds=30))

    @property
    def quiet_needed(self) -> timedelta:
        """The quiet time, but never less than three refresh intervals."""
        return max(self.quiet, 3 * self.refresh)

    def closed(self, now: datetime) -> Closed | None:
        """Why nothing may start or go on right now, and until when; None where it may."""
        return closed(self.windows, self.freezes, now)

    def frozen_time(self, since: datetime, until: datetime) -> timedelta:
        """How much of this span was frozen."""
        return frozen_time(self.freezes, since, until)


STANDARD = Policy()
FAST = Policy(
    interval=timedelta(days=30),
    steps=(Step(100, timedelta(minutes=1)),),
    monitor=timedelta(minutes=15),
    quiet=timedelta(minutes=5),
    cool_off=timedelta(minutes=15),
    deadline=timedelta(days=1),
    min_samples=5,
    allow_idle=True,
    exposure={"revealed": None, "member_left": timedelta(days=7), "reported": timedelta(0)},
)
EMERGENCY = Policy(
    interval=None,
    steps=(Step(100, timedelta(0)),),
    monitor=timedelta(0),
    quiet=timedelta(minutes=1),
    cool_off=timedelta(0),
    deadline=timedelta(hours=4),
    refresh=timedelta(seconds=5),
    min_samples=1,
    allow_idle=True,
    force_after=timedelta(minutes=15),
)
CUTOVER = replace(
    STANDARD,
    steps=(Step(100, timedelta(minutes=10)),),
    approvals={**dict.fromkeys(APPROVALS, 0), "start": 1},
    cutover=True,
)
PRESETS: Mapping[str, Policy] = {
    "standard": STANDARD,
    "fast": FAST,
    "emergency": EMERGENCY,
    "cutover": CUTOVER,
}

LONGEST_WINDOW = timedelta(hours=12)  # reports are kept one by one for so long that windows of this fit
_OPTIONAL_DURATIONS = ("interval", "force_after", "max_age", "rehearsal")
_AT_LEAST_A_SECOND = (
    "deadline",
    "window",
    "probe_every",
    "refresh",
    "interval",
    "max_age",
    "rehearsal",
)


def to_json(policy: Policy) -> dict[str, Any]:
    """The policy as the API shows it. ``from_json(to_json(p)) == p``."""
    document: dict[str, Any] = {}
    for item in fields(policy):
        value = getattr(policy, item.name)
        if isinstance(value, timedelta):
            value = format_duration(value)
        document[item.name] = value
    document["approvals"] = dict(policy.approvals)
    document["exposure"] = {
        name: None if span is None else format_duration(span) for name, span in policy.exposure.items()
    }
    document["canaries"], document["pinned"] = list(policy.canaries), list(policy.pinned)
    document["steps"] = [{"weight": s.weight, "hold": format_duration(s.hold)} for s in policy.steps]
    document["windows"] = [
        {"days": list(w.days), "from": f"{w.start:%H:%M}", "to": f"{w.end:%H:%M}", "zone": w.zone}
        for w in policy.windows
    ]
    document["freezes"] = [
        {"from": f.start.isoformat(), "to": f.end.isoformat(), "reason": f.reason} for f in policy.freezes
    ]
    return document


def from_json(document: Mapping[str, Any], *, base: Policy = STANDARD) -> Policy:
    """A policy from its JSON form; members left out come from ``base``. Raises ``PolicyError``."""
    known = {item.name for item in fields(Policy)}
    for name in document:
        if name not in known:
            raise PolicyError(name, "Unknown field.")
    changes: dict[str, Any] = {}
    for name, value in document.items():
        try:
            changes[name] = _READERS[name](value) if name in _READERS else _read_duration(name, value)
        except PolicyError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise PolicyError(name, _explain(error)) from error
    policy = replace(base, **changes)
    if set(policy.canaries) & set(policy.pinned):
        raise PolicyError("pinned", "A consumer cannot be both canary and pinned.")
    if policy.window > LONGEST_WINDOW:
        raise PolicyError("window", "Use at most 12 hours (PT12H).")
    if policy.cutover and len(policy.steps) > 1:
        raise PolicyError("steps", "In a cutover there is nothing to shift: use one step of 100.")
    return policy


@lru_cache(maxsize=1024)
def _read_once(text: str) -> Policy:
    return from_json(json.loads(text))


def kept(document: Mapping[str, Any]) -> Policy:
    """The policy that a row keeps: one of few documents, looked at again and again."""
    return _read_once(json.dumps(document))


def _explain(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"The member {error} is missing."
    return str(error)


def _read_duration(name: str, value: object) -> timedelta | None:
    if value is None and name in _OPTIONAL_DURATIONS:
        return None
    length = parse_duration(value)
    if name in _AT_LEAST_A_SECOND and length < timedelta(seconds=1):
        raise ValueError("Use at least one second (PT1S).")
    return length


def _integer(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"Use a whole number from {low} to {high}.")
    return value


def _read_steps(value: object) -> tuple[Step, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 20:
        raise ValueError("Use a list of 1 to 20 steps.")
    steps = tuple(
        Step(_integer(s["weight"], 1, 100), parse_duration(s["hold"]))
        for s in (_members(entry, "weight", "hold") for entry in value)
    )
    weights = [step.weight for step in steps]
    if weights != sorted(set(weights)) or weights[-1] != 100:
        raise ValueError("Weights must rise from step to step and end at 100.")
    return steps


def _members(entry: object, *names: str) -> Mapping[str, Any]:
    """An object that has no other members than these."""
    if not isinstance(entry, dict) or entry.keys() - set(names):
        raise ValueError(f"Use objects with {', '.join(names)}.")
    return entry


def _read_rate(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError("Use a share between 0 and 1.")
    return float(value)  # type: ignore[arg-type]


def _read_flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("Use true or false.")
    return value


def _read_approvals(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or set(value) - set(APPROVALS):
        raise ValueError(f"Use an object with {', '.join(APPROVALS)}.")
    return {name: _integer(value.get(name, 0), 0, 5) for name in APPROVALS}


def _read_exposure(value: object) -> dict[str, timedelta | None]:
    """Members left out keep the default."""
    if not isinstance(value, dict) or set(value) - set(EXPOSURES):
        raise ValueError(f"Use an object with {', '.join(EXPOSURES)}.")
    spans = {name: None if span is None else parse_duration(span) for name, span in value.items()}
    return {**_EXPOSURE, **spans}


def _read_slugs(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 200:
        raise ValueError("Use a list of consumer names.")
    if not all(isinstance(name, str) and _SLUG.fullmatch(name) for name in value):
        raise ValueError("Use names of consumers: lower-case letters, digits and dashes.")
    return tuple(sorted(set(value)))


def _read_windows(value: object) -> tuple[Window, ...]:
    return tuple(_read_window(entry) for entry in _entries(value))


def _entries(value: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or len(value) > 50 or not all(isinstance(v, dict) for v in value):
        raise ValueError("Use a list of objects.")
    return value


def _read_window(entry: Mapping[str, Any]) -> Window:
    entry = _members(entry, "days", "from", "to", "zone")
    days = entry["days"]
    if not isinstance(days, list) or not 1 <= len(days) <= 7 or any(day not in WEEKDAYS for day in days):
        raise ValueError(f"Days are some of {', '.join(WEEKDAYS)}.")
    if entry["zone"] not in _zones():
        raise ValueError("Use a time zone such as Europe/Berlin.")
    return Window(tuple(days), _read_clock(entry["from"]), _read_clock(entry["to"]), entry["zone"])


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Looking for them takes a walk through the file system."""
    return frozenset(available_timezones())


def _read_clock(text: object) -> time:
    if not isinstance(text, str) or not _CLOCK.fullmatch(text):
        raise ValueError("Use times of day such as 08:30.")
    return time.fromisoformat(text)


def _read_freezes(value: object) -> tuple[Freeze, ...]:
    freezes = []
    for entry in _entries(value):
        entry = _members(entry, "from", "to", "reason")
        start, end = datetime.fromisoformat(entry["from"]), datetime.fromisoformat(entry["to"])
        if start.tzinfo is None or end.tzinfo is None or end <= start:
            raise ValueError("A freeze has a start and a later end, both with a time zone.")
        reason = entry.get("reason", "")
        if not isinstance(reason, str) or len(reason) > 200 or not reason.isprintable():
            raise ValueError("A reason is one line of at most 200 characters.")
        freezes.append(Freeze(start, end, reason))
    return tuple(freezes)


_READERS = {
    "steps": _read_steps,
    "min_samples": lambda value: _integer(value, 1, 1_000_000),
    "max_error_rate": _read_rate,
    "allow_idle": _read_flag,
    "cutover": _read_flag,
    "approvals": _read_approvals,
    "exposure": _read_exposure,
    "windows": _read_windows,
    "freezes": _read_freezes,
    "canaries": _read_slugs,
    "pinned": _read_slugs,
}
