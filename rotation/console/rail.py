"""The stage rail: deploy, shift, monitor, revoke, and where a rotation is on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from keyvault.console.templatetags.keyturn import span
from rotation.facts import TERMINAL, Stage
from rotation.models import Rotation, RotationEvent
from rotation.policy import Policy

STOPS = (Stage.DEPLOY, Stage.SHIFT, Stage.MONITOR, Stage.REVOKE)

_TASKS = {
    Stage.DEPLOY: "create and verify the new key",
    Stage.SHIFT: "move the traffic step by step",
    Stage.MONITOR: "watch both keys",
    Stage.REVOKE: "kill the old key",
}
_WORDS = {"done": "done", "now": "running", "held": "stopped", "failed": "failed", "todo": "to come"}


@dataclass(frozen=True)
class Stop:
    """``status`` is done, now, held, failed or todo; ``word`` says it for those who see no colour."""

    number: int
    name: str
    status: str
    note: str
    entered_at: datetime | None = None

    @property
    def word(self) -> str:
        return _WORDS[self.status]

    @property
    def mark(self) -> str:
        return {"done": "✓", "failed": "!", "held": "‖"}.get(self.status, str(self.number))


def rail(rotation: Rotation, policy: Policy, events: Iterable[RotationEvent] = ()) -> list[Stop]:
    """The four stops. ``events`` date the stages and tell where a finished rotation had got to."""
    entered: dict[str, datetime] = {}
    for event in events:
        if event.stage not in TERMINAL:
            entered.setdefault(event.stage, event.at)
    reached = _reached(rotation, entered)
    stops = []
    for index, stage in enumerate(STOPS):
        status = _status(rotation, index, reached)
        note = _note(rotation, policy, stage) if status in ("now", "held") else _TASKS[stage]
        stops.append(Stop(index + 1, stage.value, status, note, entered.get(stage)))
    return stops


def _reached(rotation: Rotation, entered: dict[str, datetime]) -> int:
    """The index of the stage it is in, or was in when it ended; -1 before the first one."""
    if rotation.stage in STOPS:
        return STOPS.index(Stage(rotation.stage))
    if rotation.stage == Stage.SUCCEEDED:
        return len(STOPS)
    return max((STOPS.index(Stage(stage)) for stage in entered if stage in STOPS), default=-1)


def _status(rotation: Rotation, index: int, reached: int) -> str:
    if index < reached:
        return "done"
    if index > reached:
        return "todo"
    if not rotation.is_open:
        return "failed"
    return "held" if rotation.paused or rotation.attention else "now"


def _note(rotation: Rotation, policy: Policy, stage: Stage) -> str:
    if stage is Stage.SHIFT:
        return f"{rotation.weight} % · step {rotation.step + 1} of {len(policy.steps)}"
    if stage is Stage.MONITOR:
        return f"{span(rotation.monitored_seconds)} of {span(policy.monitor)}"
    return _TASKS[stage]
