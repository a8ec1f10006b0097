"""How much faster than in life the demo runs: the times of the policy ``standard``, divided. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from rotation.policy import STANDARD, Policy, Step, to_json

USUAL: Final = 7200.0  # at speed 1 two hours of the policy take a second

# Seconds below which a time makes no sense however fast the demo runs: consumers refresh, report and are
# judged in real time, on a machine that also runs everything else.
_FLOORS: Final[Mapping[str, float]] = {
    "monitor": 3.0,
    "quiet": 3.0,
    "cool_off": 2.0,
    "deadline": 240.0,
    "window": 8.0,
    "probe_every": 3.0,
    "refresh": 2.0,
}
_HOLD_FLOOR: Final = 3.0
_TOKEN_FLOOR: Final = 4.0
_SAMPLES: Final = 5  # in a window of seconds there is not room for as many requests as in minutes


@dataclass(frozen=True)
class Pace:
    """``speed`` 1 is the demo's usual pace, 2 is twice as fast, and so on; it is above 0."""

    speed: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise ValueError("The speed must be a number above 0.")

    def scaled(self, span: timedelta, floor: float) -> timedelta:
        """``span`` at this speed, but no less than ``floor`` seconds; whole milliseconds."""
        return timedelta(milliseconds=round(max(floor, span.total_seconds() / (USUAL * self.speed)) * 1000))

    def policy(self) -> Policy:
        """``standard`` at this speed. The interval stays: it says when to rotate, not how."""
        times = {name: self.scaled(getattr(STANDARD, name), floor) for name, floor in _FLOORS.items()}
        steps = tuple(Step(step.weight, self.scaled(step.hold, _HOLD_FLOOR)) for step in STANDARD.steps)
        return replace(STANDARD, steps=steps, min_samples=_SAMPLES, **times)  # type: ignore[arg-type]

    def policy_document(self) -> dict[str, Any]:
        """What differs from ``standard``, as ``POST /v1/policies/`` takes it."""
        document, usual = to_json(self.policy()), to_json(STANDARD)
        return {name: value for name, value in document.items() if value != usual[name]}

    def token_seconds(self, seconds: int) -> int:
        """The life of a derived access token, at most ``seconds``: whole seconds, at this speed."""
        scaled = self.scaled(timedelta(seconds=seconds), _TOKEN_FLOOR)
        return min(seconds, math.ceil(scaled.total_seconds()))

    @property
    def refresh(self) -> float:
        """The longest that a consumer waits before it asks for its key again, in seconds."""
        return self.policy().refresh.total_seconds()

    @property
    def patience(self) -> float:
        """Seconds after which a rotation that is not over is taken to hang."""
        policy = self.policy()
        held = sum(step.hold.total_seconds() for step in policy.steps)
        least = held + sum(t.total_seconds() for t in (policy.monitor, policy.quiet_needed, policy.cool_off))
        return 60.0 + 3.0 * least
