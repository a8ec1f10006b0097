"""Buttons that are not there now, and why: a disabled button without a reason is a riddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyvault.actors import Actor
from rotation.console.choices import Choice
from rotation.facts import Stage, Verb
from rotation.models import Rotation


@dataclass(frozen=True)
class Withheld:
    """``label`` is what the button would say."""

    verb: Verb
    label: str
    why: str


def withheld(rotation: Rotation, options: Sequence[Choice], actor: Actor) -> list[Withheld]:
    """For somebody who may act here; nothing for a viewer, and nothing once it is over."""
    team = rotation.key.service.team_id
    if not rotation.is_open or not actor.may("operate", team):
        return []
    there = {choice.verb for choice in options}
    old = f"v{rotation.outgoing.number}" if rotation.outgoing else "the old key"
    found = []
    if Verb.ADVANCE not in there:
        found.append(Withheld(Verb.ADVANCE, "Move on now", _no_advance(rotation)))
    if Verb.ABORT not in there:
        why = (
            "It is going back already."
            if rotation.abort_asked_at
            else f"{old} may be revoked already, so there is nothing to go back to."
        )
        found.append(Withheld(Verb.ABORT, f"Go back to {old}", why))
    if rotation.outgoing is not None and Verb.FORCE_REVOKE not in there:
        found.append(Withheld(Verb.FORCE_REVOKE, f"Revoke {old} now", _no_force(rotation, actor)))
    return found


def _no_advance(rotation: Rotation) -> str:
    if rotation.paused:
        return "It is paused. Resume it first."
    if rotation.abort_asked_at is not None:
        return "It is going back."
    return _NO_ADVANCE.get(rotation.stage, "There is no step to skip now.")


_NO_ADVANCE: Mapping[str, str] = {
    Stage.DEPLOY: "The new key has to be verified before anybody gets it.",
    Stage.MONITOR: "Time and the quiet proof move it on. Who cannot wait revokes the old key by force.",
    Stage.REVOKE: "The old key is on its way out; nothing is left to skip.",
}


def _no_force(rotation: Rotation, actor: Actor) -> str:
    if rotation.stage == Stage.MONITOR and not actor.may("manage", rotation.key.service.team_id):
        return "This needs the role lead in the team."
    if rotation.stage == Stage.REVOKE:
        return "It is being revoked."
    return "Only in the stage monitor, when everybody has been given the new key."
