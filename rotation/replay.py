"""Rebuilding keys and rotations from audit events alone: a fold over what the chain tells.

What is rebuilt is what decides about traffic and about life and death: the labels and the weight of every
key, the state of every version, the stage, weight, pause and attention of every rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

KeyName = tuple[str, str]  # service, environment
VersionName = tuple[str, str, int]

_STATES: Final[Mapping[str, str]] = {
    "requested": "requested",
    "imported": "active",
    "issued": "active",
    "disabled": "disabled",
    "enabled": "active",
    "revoked": "revoked",
    "destroyed": "destroyed",
}
# Stages that come with a weight of their own.
_WEIGHTS: Final[Mapping[str, int]] = {"shift": 0, "monitor": 100, "rolled_back": 0}


class Told(Protocol):
    """What is read of an event."""

    @property
    def sequence(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def environment(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def details(self) -> Mapping[str, Any]: ...


@dataclass
class KeyLabels:
    """Which version carries which label; ``weight`` while one is pending."""

    current: int | None = None
    pending: int | None = None
    previous: int | None = None
    weight: int | None = None


@dataclass
class RotationState:
    stage: str = "requested"
    weight: int = 0
    paused: bool = False
    attention: str = ""
    finished: bool = False


class Unlikely(Exception):
    """An event tells of a move that cannot follow from the events before it."""

    def __init__(self, event: Told, why: str) -> None:
        super().__init__(f"Event {event.sequence} ({event.name}): {why}")
        self.sequence = event.sequence


@dataclass
class Replay:
    """What the events so far amount to."""

    keys: dict[KeyName, KeyLabels] = field(default_factory=dict)
    versions: dict[VersionName, str] = field(default_factory=dict)
    rotations: dict[str, RotationState] = field(default_factory=dict)

    def apply_all(self, events: Iterable[Told]) -> None:
        """Raises ``Unlikely``."""
        for event in events:
            self.apply(event)

    def apply(self, event: Told) -> None:
        """One event further. Raises ``Unlikely``."""
        room, _, name = event.name.partition(":")
        if room == "key":
            self._key(event, name)
        elif room == "rotation" and event.subject:
            self._rotation(event, name)

    # Keys and versions ------------------------------------------------------------------------------

    def _key(self, event: Told, name: str) -> None:
        key = (event.service, event.environment)
        if name == "created":
            self.keys[key] = KeyLabels()
        elif name.startswith("version:"):
            self._version(event, key, name.removeprefix("version:"))
        elif name in _LABELS:
            _LABELS[name](self._labels(event, key), event.details)

    def _labels(self, event: Told, key: KeyName) -> KeyLabels:
        if key not in self.keys:
            raise Unlikely(event, "nothing told of this key before.")
        return self.keys[key]

    def _version(self, event: Told, key: KeyName, name: str) -> None:
        labels, number = self._labels(event, key), int(event.details["version"])
        if name == "offered":
            labels.pending, labels.weight = number, 0
        state = _STATES.get(name)
        if state is None:
            return
        known = (*key, number) in self.versions
        if known is (name == "requested"):
            raise Unlikely(event, f"version {number} was {'' if known else 'not '}there before.")
        self.versions[*key, number] = state
        if name == "revoked" and labels.current == number:
            labels.current = None

    # Rotations --------------------------------------------------------------------------------------

    def _rotation(self, event: Told, name: str) -> None:
        if name == "started":
            self.rotations[event.subject] = RotationState()
            return
        rotation = self.rotations.get(event.subject)
        if rotation is None:
            raise Unlikely(event, "nothing told of this rotation before.")
        if name == "stage":
            if event.details["was"] != rotation.stage:
                raise Unlikely(event, f"it was in {rotation.stage}, not in {event.details['was']}.")
            rotation.stage = str(event.details["stage"])
            rotation.weight = _WEIGHTS.get(rotation.stage, rotation.weight)
        elif name == "weight":
            rotation.weight = int(event.details["weight"])
        elif name in ("paused", "resumed"):
            rotation.paused = name == "paused"
        elif name == "attention":
            rotation.attention = str(event.details["code"])
        elif name == "attention:cleared":
            rotation.attention = ""
        elif name == "finished":
            rotation.finished, rotation.paused, rotation.attention = True, False, ""


def _weight(labels: KeyLabels, details: Mapping[str, Any]) -> None:
    labels.weight = int(details["weight"])


def _promoted(labels: KeyLabels, details: Mapping[str, Any]) -> None:
    labels.current, labels.previous = int(details["version"]), details["previous"]
    labels.pending = labels.weight = None


def _rolled_back(labels: KeyLabels, details: Mapping[str, Any]) -> None:
    labels.current = int(details["version"])
    labels.pending = labels.previous = labels.weight = None


def _retired(labels: KeyLabels, details: Mapping[str, Any]) -> None:
    labels.previous = None


_LABELS: Final = {
    "weight:set": _weight,
    "promoted": _promoted,
    "rolled-back": _rolled_back,
    "previous:retired": _retired,
}
