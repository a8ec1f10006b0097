"""A policy in words, and what differs between two of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from keyvault.console.templatetags.keyturn import span
from rotation.policy import Freeze, Policy, Step, Window, to_json


@dataclass(frozen=True)
class Line:
    """One member of a policy: its name in JSON, what people call it, and its value in words."""

    name: str
    label: str
    text: str


@dataclass(frozen=True)
class Change:
    label: str
    was: str
    now: str


def _length(nothing: str) -> Callable[[timedelta | None], str]:
    return lambda length: nothing if length is None else span(length)


def _steps(steps: Sequence[Step]) -> str:
    return ", ".join(f"{step.weight} % for {span(step.hold)}" for step in steps)


def _rate(rate: float) -> str:
    return f"{rate * 100:g} %"


def _idle(allowed: bool) -> str:
    return "a probe is enough" if allowed else "it waits"


def _approvals(needed: Mapping[str, int]) -> str:
    words = {"start": "to start", "shift_past_50": "past 50 %", "revoke": "to revoke", "force": "to force it"}
    asked = [f"{number} {words.get(name, name)}" for name, number in needed.items() if number]
    return ", ".join(asked) or "none"


def _exposure(spans: Mapping[str, timedelta | None]) -> str:
    words = {"revealed": "revealed", "member_left": "who saw it has left", "reported": "reported"}
    told = [
        f"{words.get(name, name)}: {'not for this' if length is None else _soon(length)}"
        for name, length in spans.items()
    ]
    return "; ".join(told)


def _soon(length: timedelta) -> str:
    return f"within {span(length)}" if length else "at once"


def _gap(allowed: bool) -> str:
    return "yes, the old one ends first" if allowed else "no"


def _windows(windows: Iterable[Window]) -> str:
    told = [f"{', '.join(w.days)} {w.start:%H:%M} to {w.end:%H:%M} {w.zone}" for w in windows]
    return "; ".join(told) or "at any time"


def _freezes(freezes: Iterable[Freeze]) -> str:
    told = [f"{f.start:%Y-%m-%d %H:%M %Z} to {f.end:%Y-%m-%d %H:%M %Z} {f.reason}".strip() for f in freezes]
    return "; ".join(told) or "none"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "nobody"


_WORDS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "interval": ("Replaced every", _length("when a person starts it")),
    "steps": ("Weight", _steps),
    "monitor": ("Healthy time observed", span),
    "quiet": ("Quiet before revoke", span),
    "cool_off": ("Cool-off, disabled", span),
    "deadline": ("Must end within", span),
    "window": ("Judged over", span),
    "min_samples": ("Requests needed for a verdict", str),
    "max_error_rate": ("Errors allowed", _rate),
    "allow_idle": ("Without traffic", _idle),
    "cutover": ("One key at a time", _gap),
    "probe_every": ("Probed every", span),
    "refresh": ("Consumers ask again after", span),
    "approvals": ("Approvals", _approvals),
    "windows": ("Goes on", _windows),
    "freezes": ("Frozen", _freezes),
    "canaries": ("Always first", _names),
    "pinned": ("Always last", _names),
    "force_after": ("Revoked at the latest, after everybody has moved", _length("it waits for the proof")),
    "max_age": ("Never older than", _length("no limit")),
    "rehearsal": ("Rehearsed lower down within", _length("not asked for")),
    "exposure": ("Replaced once", _exposure),
}


def in_words(policy: Policy) -> list[Line]:
    """Every member, in the order in which a rotation meets it; one that is not known here as its JSON."""
    known = {item.name for item in fields(policy)}
    order = [*(name for name in _WORDS if name in known), *sorted(known - _WORDS.keys())]
    return [_line(policy, name) for name in order]


def _line(policy: Policy, name: str) -> Line:
    if name in _WORDS:
        label, write = _WORDS[name]
        return Line(name, label, write(getattr(policy, name)))
    plain = json.dumps(to_json(policy)[name])
    return Line(name, name.replace("_", " ").capitalize(), plain.strip('"'))


def differences(was: Policy, now: Policy) -> list[Change]:
    """What changes from one policy to the other, in words; empty where they are the same."""
    changed = {item.name for item in fields(was) if getattr(was, item.name) != getattr(now, item.name)}
    pairs = zip(in_words(was), in_words(now), strict=True)
    return [Change(old.label, old.text, new.text) for old, new in pairs if old.name in changed]
