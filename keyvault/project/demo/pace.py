"""How much faster than in life the demo runs: the times of the policy ``standard``, divided. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from rotation.policy import EMERGENCY, STANDARD, Policy, Step, to_json

USUAL: Final = 7200.0  # at speed 1 two hours of the policy take a second

# Seconds below which a time makes no sense however fast the demo runs: consumers refresh, report and are
# judged in real time, on a machine that also runs everything else.
_FLOORS: Final[Mapping[str, float]] = {
    "monitor": 3.0,
    "quiet": 8.0,  # longer than a token and a report of its use may take together, on a machine that is slow
    "cool_off": 2.0,
    "deadline": 1800.0,
    "window": 8.0,
    "probe_every": 3.0,
    "refresh": 2.0,
}
_HOLD_FLOOR: Final = 3.0
_TOKEN_FLOOR: Final = 5.0
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

    def cautious(self, canaries: Sequence[str]) -> Policy:
        """``policy``, but it stays on 25 %, with all instances of these consumers among them."""
        usual = self.policy()
        steps = tuple(replace(step, hold=self._stay) if step.weight == 25 else step for step in usual.steps)
        return replace(usual, steps=steps, canaries=tuple(canaries))

    def watchful(self) -> Policy:
        """``policy``, but it stays in monitor."""
        return replace(self.policy(), monitor=self._stay)

    @property
    def _stay(self) -> timedelta:
        """Longer than the demo waits for anything: what ends such a wait is not the clock."""
        return timedelta(seconds=round(2 * self.patience))

    def emergency(self) -> Policy:
        """``emergency`` at this speed."""
        usual = self.policy()
        quiet = self.scaled(EMERGENCY.quiet, _FLOORS["quiet"])
        brief = {name: getattr(usual, name) for name in ("window", "probe_every", "refresh")}
        return replace(EMERGENCY, quiet=quiet, **brief)

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
        """Seconds after which what should have happened will not: many times what an idle machine needs."""
        policy = self.policy()
        held = sum(step.hold.total_seconds() for step in policy.steps)
        least = held + sum(t.total_seconds() for t in (policy.monitor, policy.quiet_needed, policy.cool_off))
        return 300.0 + 6.0 * least


def document(policy: Policy, usual: Policy = STANDARD) -> dict[str, Any]:
    """What differs from ``usual``, as ``/v1/policies/`` takes it."""
    ours, theirs = to_json(policy), to_json(usual)
    return {name: value for name, value in ours.items() if value != theirs[name]}
