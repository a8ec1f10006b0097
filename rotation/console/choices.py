"""The verbs of a rotation as buttons that say what will happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyvault.actors import Actor
from rotation.facts import Observations, Stage, Verb
from rotation.models import Rotation
from rotation.planned import rotation_digest
from rotation.policy import Policy
from rotation.services.approving import transition_asked
from rotation.services.saying import verbs_of

APPROVED = {
    "start": "the start",
    "shift_past_50": "going past 50 %",
    "revoke": "the revoke",
    "force": "forcing the revoke",
}
_MANAGERS = (Verb.SUPPLY, Verb.FORCE_REVOKE, Verb.EMERGENCY)


@dataclass(frozen=True)
class Choice:
    """A verb with the words on its button, what it does, and what must be typed to confirm it."""

    verb: Verb
    label: str
    effect: str
    tone: str = ""
    confirm: str = ""  # the name to type
    count: int | None = None  # the number of offenders to type
    fresh_password: bool = False
    more: bool = False  # how much time to give
    transitions: tuple[str, ...] = ()  # of these the person chooses one, where there are several


def choices(rotation: Rotation, policy: Policy, seen: Observations, actor: Actor) -> list[Choice]:
    """What this person may do with this rotation now, most helpful first. Empty for a viewer."""
    team = rotation.key.service.team_id
    if not actor.may("operate", team):
        return []
    found = []
    for name in verbs_of(rotation):
        verb = Verb(name)
        if verb in _MANAGERS and not actor.may("manage", team):
            continue
        if verb is Verb.APPROVE and actor.name == rotation.requested_by:
            continue
        found.append(_choice(verb, rotation, policy, seen))
    return found


def find_choice(options: Sequence[Choice], verb: str) -> Choice | None:
    return next((choice for choice in options if choice.verb == verb), None)


def seen_mark(rotation: Rotation) -> str:
    """What the person saw when choosing. It grows stale with a real change, not with every check."""
    flags = f"{int(rotation.paused)}{int(rotation.abort_asked_at is not None)}"
    plan = rotation_digest(rotation)[:16]
    return ".".join(
        (rotation.stage, str(rotation.step), str(rotation.weight), flags, rotation.attention, plan)
    )


def _choice(verb: Verb, rotation: Rotation, policy: Policy, seen: Observations) -> Choice:
    old = f"v{rotation.outgoing.number}" if rotation.outgoing else "nothing"
    protected = rotation.key.environment.protected
    name = str(rotation.key)
    match verb:
        case Verb.PAUSE:
            at = f" at {rotation.weight} %" if rotation.stage == Stage.SHIFT else ""
            return Choice(
                verb, f"Pause{at}", "Progress stops. A rejected key still rolls back: protection goes on."
            )
        case Verb.RESUME:
            return Choice(verb, "Resume", "It goes on from here. What failed is tried again.", "primary")
        case Verb.ADVANCE:
            return _advance(rotation, policy)
        case Verb.ABORT:
            return _abort(rotation, old, seen, confirm=name if protected else "")
        case Verb.SUPPLY:
            return Choice(
                verb, "Supply the new key", "You paste a key that you created at the provider.", "primary"
            )
        case Verb.CONFIRM_REVOKED:
            dead = rotation.incoming if rotation.stage == Stage.ROLLED_BACK else rotation.outgoing
            number = f"v{dead.number}" if dead else "The key"
            effect = f"You say that {number} was revoked at the provider. A probe then has to find it dead."
            return Choice(verb, f"{number} is revoked at the provider", effect, "primary")
        case Verb.FORCE_REVOKE:
            n = len(seen.offenders)
            effect = (
                f"{old} is revoked although {n} instance(s) have not proved to be off it. "
                "Their requests will fail."
            )
            return Choice(verb, f"Revoke {old} now", effect, "danger", count=n, fresh_password=protected)
        case Verb.APPROVE:
            return _approve(rotation)
        case Verb.EXTEND:
            return Choice(
                verb,
                "Give it more time",
                "It goes on until a later time before a person is called.",
                more=True,
            )
        case Verb.EMERGENCY:
            effect = "The current key is replaced at once and then revoked."
            return Choice(verb, "Emergency", effect, "danger", confirm=name, fresh_password=True)


def _approve(rotation: Rotation) -> Choice:
    """While it is monitored, forcing the revoke can be agreed to as well, whatever it waits for."""
    asked = transition_asked(rotation)
    others = ("force",) if rotation.stage == Stage.MONITOR and asked != "force" else ()
    what = APPROVED[asked]
    effect = f"You say yes to {what}, under the plan as it is now. This counts for 24 hours."
    if others:
        effect = "You say yes to what you choose here, under the plan as it is now. This counts for 24 hours."
    return Choice(
        Verb.APPROVE,
        f"Approve {what}" if not others else "Approve",
        effect,
        "primary",
        fresh_password=True,
        transitions=(asked, *others),
    )


def _advance(rotation: Rotation, policy: Policy) -> Choice:
    verb, last = Verb.ADVANCE, len(policy.steps) - 1
    if rotation.stage == Stage.SHIFT and rotation.step < last:
        weight = policy.steps[rotation.step + 1].weight
        return Choice(verb, f"Move to {weight} % now", "The hold and the verdict of this step are skipped.")
    if rotation.stage == Stage.SHIFT:
        return Choice(verb, "Promote now", "The hold and the verdict of the last step are skipped.")
    return Choice(
        verb, "Go on anyway", "It goes on, on your word instead of the check that stopped it.", "danger"
    )


def moved(seen: Observations) -> str:
    """How many are on the new key at this moment, as far as it is known."""
    if not seen.instances:
        return "No active instance is known now."
    return f"{seen.instances} instance(s) are active now, {seen.assigned} of them for the new key."


def _abort(rotation: Rotation, old: str, seen: Observations, *, confirm: str) -> Choice:
    verb = Verb.ABORT
    if rotation.incoming is None or rotation.incoming.ciphertext is None:
        return Choice(verb, "Cancel", "Nothing has been created yet, so nothing has to be undone.", "danger")
    effect = (
        f"{old} answers everybody again at once; v{rotation.incoming.number} is withheld, and revoked later. "
        f"{moved(seen)}"
    )
    return Choice(verb, f"Go back to {old}", effect, "danger", confirm=confirm)
