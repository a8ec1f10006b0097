"""A policy as a picture: its steps, then monitoring, then the revoke. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyvault.console.templatetags.keyturn import span
from rotation.policy import Policy

COLUMN, GAP, PLOT, TOP, FOOT = 96, 6, 120, 22, 40


@dataclass(frozen=True)
class Column:
    """One column of the drawing. ``kind`` is new (a step), band (monitor) or old (revoke)."""

    kind: str
    x: int
    y: float
    width: int
    height: float
    middle: float
    top_text: str
    name: str
    length: str


@dataclass(frozen=True)
class Drawing:
    columns: Sequence[Column]
    width: int
    height: int
    base: int
    summary: str

    @property
    def view_box(self) -> str:
        return f"0 0 {self.width} {self.height}"


def drawing(policy: Policy) -> Drawing:
    """Columns are as high as the weight and all as wide: a day beside a minute would hide the minute."""
    parts = [(f"step {n + 1}", step.weight, span(step.hold), "new") for n, step in enumerate(policy.steps)]
    parts.append(("monitor", 100, span(policy.monitor), "band"))
    parts.append(("cool-off", 100, span(policy.cool_off), "old"))
    if policy.cutover:
        parts = [
            ("old key", 100, "is revoked", "old"),
            ("no key", 2, "a moment", "band"),
            ("new key", 100, "for everybody", "new"),
        ]
    columns = []
    for index, (name, weight, length, kind) in enumerate(parts):
        height = PLOT * weight / 100
        x = index * (COLUMN + GAP)
        text = f"{weight} %" if kind == "new" else ""
        y = TOP + PLOT - height
        columns.append(Column(kind, x, y, COLUMN, height, x + COLUMN / 2, text, name, length))
    width = len(parts) * (COLUMN + GAP) - GAP
    return Drawing(columns, width, TOP + PLOT + FOOT, TOP + PLOT, _summary(policy))


def _summary(policy: Policy) -> str:
    if policy.cutover:
        return (
            "One key at a time: the old one is revoked, then the new one is made, and everybody gets it at "
            "once. In between there is none. Where a person replaces the key, "
            f"the new one is watched for {span(policy.monitor)} afterwards."
        )
    steps = ", ".join(f"{step.weight} % for {span(step.hold)}" for step in policy.steps)
    watched = span(policy.monitor)
    return f"Weight: {steps}. Then both keys are watched for {watched}, then the old key is revoked."
