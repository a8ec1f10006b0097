"""What all verbs have in common: who says what, why and when, and whether the rotation takes it now."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from django.db import transaction

from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError
from rotation import engine
from rotation.decide import allowed_verbs
from rotation.facts import Stage, Verb
from rotation.models import Rotation
from rotation.observe import snapshot
from rotation.policy import APPROVALS

_LEADS = frozenset({Verb.SUPPLY, Verb.FORCE_REVOKE})  # all other verbs are for operators too
_WAITS = {f"approval_{transition}": transition for transition in APPROVALS}


class How(TypedDict):
    """Why and when. ``revision``: as the person saw the rotation. ``ring``: how operations are announced."""

    reason: str
    now: datetime
    revision: NotRequired[int | None]
    ring: NotRequired[engine.Ring | None]


@dataclass(frozen=True)
class Said:
    """Who said something, why and when."""

    actor: Actor
    reason: str
    now: datetime


def in_progress(rotation: Rotation) -> KeyturnError:
    """The answer to a second rotation of the same key."""
    return KeyturnError(
        "rotation_in_progress",
        "Another rotation of this key is open.",
        extra={"rotation": str(rotation.id), "stage": str(rotation.stage), "verbs": list(verbs_of(rotation))},
    )


def approval_awaited(rotation: Rotation) -> str | None:
    """The transition that it stands still for until it is approved."""
    return _WAITS.get(rotation.waiting_code)


def verbs_of(rotation: Rotation) -> tuple[str, ...]:
    """The verbs that this rotation takes now."""
    waiting = approval_awaited(rotation) is not None
    asked = tuple(Verb(verb) for verb in rotation.attention_verbs)
    return tuple(str(verb) for verb in allowed_verbs(snapshot(rotation), asked, wants_approval=waiting))


def run(
    verb: Verb, change: Callable[[Rotation, Said], None], actor: Actor, rotation_id: uuid.UUID, how: How
) -> Rotation:
    """Lock, check the right and the state, change, let the engine go on: one transaction."""
    now, revision = how["now"], how.get("revision")
    with transaction.atomic():
        rotation = engine.lock(rotation_id)
        actor.demand("manage" if verb in _LEADS else "operate", rotation.key.service.team_id)
        if revision is not None and revision != rotation.revision:
            raise KeyturnError("precondition_failed", "The rotation has moved on. Look at it again.")
        verbs = verbs_of(rotation)
        if verb not in verbs:
            raise KeyturnError(
                "invalid_transition",
                _refusal(verb, rotation),
                extra={"state": str(rotation.stage), "verbs": list(verbs)},
            )
        change(rotation, Said(actor, how["reason"], now))
        rotation.check_at = now
        rotation.save()
        return engine.advance_locked(rotation, now, ring=how.get("ring"))


def _refusal(verb: Verb, rotation: Rotation) -> str:
    if verb is Verb.ABORT and rotation.revoke_asked_at is not None:
        text = "The outgoing key may be revoked already, so there is nothing to go back to. "
        return text + ("Use emergency." if rotation.stage == Stage.REVOKE else "Finish the new key.")
    if not rotation.is_open:
        return f"This rotation is finished ({rotation.stage}). Start a new one."
    return f"'{verb}' is not possible now."


def note(rotation: Rotation, said: Said, name: str, **details: Any) -> None:
    engine.event(rotation, name, reason=said.reason, now=said.now, actor=said.actor, **details)
