"""What the demo found out, as values: for the table, for ``--json`` and for the exit code. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """One weight of a rotation: when it was set (seconds after the start) and how many instances had the
    incoming version at the end of its time."""

    seconds: float
    weight: int
    moved: int
    instances: int


@dataclass(frozen=True)
class ProviderResult:
    """One provider's prod key: rotated, and what the consumers saw of it."""

    provider: str
    requests: int
    failed: int
    stage: str
    old_key_refused: bool
    old_version: int
    new_version: int
    shares: tuple[Share, ...]
    audit_events: int

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "requests": self.requests,
            "failed_requests": self.failed,
            "old_key_refused": self.old_key_refused,
            "weights": [share.weight for share in self.shares],
            "audit_events": self.audit_events,
        }

    def problems(self) -> tuple[str, ...]:
        """What is not as it should be."""
        found = []
        if self.failed:
            found.append(f"{self.provider}: {self.failed} of {self.requests} requests failed")
        if not self.requests:
            found.append(f"{self.provider}: no request was made, so nothing is proved")
        if self.stage != "succeeded":
            found.append(f"{self.provider}: the rotation ended as {self.stage}")
        if not self.old_key_refused:
            found.append(f"{self.provider}: version {self.old_version} still works at the provider")
        return tuple(found)


@dataclass(frozen=True)
class Hit:
    """One instance that met the rejected key, and how often."""

    instance: str
    requests: int


@dataclass(frozen=True)
class RollbackResult:
    """The rotation that was made to go wrong."""

    provider: str
    bad_version: int
    old_version: int
    current_version: int | None
    stage: str
    weight_before: int
    hits: tuple[Hit, ...]
    seconds_to_weight_0: float | None
    old_key_works: bool
    everyone_back: bool
    reason: str

    @property
    def failed(self) -> int:
        return sum(hit.requests for hit in self.hits)

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "failed_requests": self.failed,
            "seconds_to_weight_0": self.seconds_to_weight_0,
            "current_version": self.current_version,
        }

    def problems(self) -> tuple[str, ...]:
        """What is not as it should be."""
        found = []
        if self.stage != "rolled_back":
            found.append(f"{self.provider}: the bad rotation ended as {self.stage}, not as rolled_back")
        if self.current_version != self.old_version:
            found.append(
                f"{self.provider}: version {self.current_version} is current after the rollback, "
                f"not version {self.old_version}"
            )
        if self.seconds_to_weight_0 is None:
            found.append(f"{self.provider}: nobody knows how long the rollback took")
        if not self.old_key_works:
            found.append(f"{self.provider}: version {self.old_version} does not work after the rollback")
        if not self.everyone_back:
            found.append(f"{self.provider}: some instances were not given version {self.old_version} again")
        return tuple(found)


def unmet(expected: Mapping[str, bool]) -> tuple[str, ...]:
    """What was expected and is not so."""
    return tuple(f"not so: {what}" for what, so in expected.items() if not so)


@dataclass(frozen=True)
class Told:
    """What was seen in a chapter, in a line, and what of it is not as it should be."""

    story: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChapterResult:
    """One of the things that the demo promises to show."""

    letter: str
    name: str
    seconds: float
    told: Told

    @property
    def shown(self) -> bool:
        return not self.told.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "chapter": self.name.replace(" ", "_"),
            "shown": self.shown,
            "seconds": round(self.seconds, 1),
        }

    def problems(self) -> list[str]:
        """What is not as it should be."""
        return [f"chapter ({self.letter}) {self.name}: {problem}" for problem in self.told.problems]


@dataclass(frozen=True)
class Result:
    """The whole demo."""

    providers: Sequence[ProviderResult]
    rollback: RollbackResult
    chapters: Sequence[ChapterResult]

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "providers": [result.as_json() for result in self.providers],
            "rollback": self.rollback.as_json(),
            "chapters": [chapter.as_json() for chapter in self.chapters],
        }

    def problems(self) -> list[str]:
        """Everything that is not as it should be; empty: the demo succeeded."""
        return [problem for chapter in self.chapters for problem in chapter.problems()]
