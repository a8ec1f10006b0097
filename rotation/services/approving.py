"""A person's word on one transition of a rotation: yes, no, or yes alone because it cannot wait.

These are verbs like those in ``verbs``. Each takes the ``transition`` (where none is named: what the rotation
waits for) and the digest of the ``plan`` that the person saw: another plan now is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import NotRequired, Unpack

from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.models import User
from rotation.approvals import is_requester
from rotation.facts import Verb
from rotation.models import Approval, Rotation
from rotation.planned import rotation_digest
from rotation.services.saying import How, Said, approval_awaited, note, run
from rotation.services.verbs import give_up, person, stand_still

APPROVAL_LIFE = timedelta(hours=24)
REVIEW_WITHIN = timedelta(hours=24)


class Word(How):
    """``transition``: what it is about. ``plan``: the digest of the plan that the person saw."""

    transition: NotRequired[str]
    plan: NotRequired[str]


def approve(actor: Actor, rotation_id: uuid.UUID, **word: Unpack[Word]) -> Rotation:
    """Say yes to one transition, under the plan as it is now. Never to what one asked for oneself."""
    return _decide(_approve, actor, rotation_id, word)


def decline(actor: Actor, rotation_id: uuid.UUID, **word: Unpack[Word]) -> Rotation:
    """Say no to one transition. A start is cancelled; any other rotation pauses until somebody resumes it."""
    return _decide(_decline, actor, rotation_id, word)


def break_glass(actor: Actor, rotation_id: uuid.UUID, **word: Unpack[Word]) -> Rotation:
    """Approve alone, also what one asked for. Needs the role lead and a reason; another person reviews it."""
    return _decide(_break_glass, actor, rotation_id, word)


def _decide(
    decision: Callable[[Rotation, Said, str, str], None], actor: Actor, rotation_id: uuid.UUID, word: Word
) -> Rotation:
    def change(rotation: Rotation, said: Said) -> None:
        transition = word.get("transition") or transition_asked(rotation)
        decision(rotation, said, transition, word.get("plan", ""))

    return run(Verb.APPROVE, change, actor, rotation_id, word)


def transition_asked(rotation: Rotation) -> str:
    """The transition that an approval is for: what it waits for, else forcing the revoke."""
    return approval_awaited(rotation) or "force"


def _approve(rotation: Rotation, said: Said, transition: str, plan: str) -> None:
    user = _voter(said.actor)
    if is_requester(rotation, user):
        raise denied("Another person must approve this: you asked for it.")
    digest = _seen_plan(rotation, plan)
    Approval.objects.update_or_create(
        rotation=rotation,
        transition=transition,
        user=user,
        review_due_at=None,
        defaults={
            "plan": digest,
            "reason": said.reason,
            "created_at": said.now,
            "expires_at": said.now + APPROVAL_LIFE,
        },
    )
    note(rotation, said, "approved", transition=transition, plan=digest)


def _voter(actor: Actor) -> User:
    user = person(actor)
    if user is None:
        raise denied("Only a person can approve this.")
    return user


def _seen_plan(rotation: Rotation, plan: str) -> str:
    """The digest of the plan as it is now; refused where the person saw another one."""
    digest = rotation_digest(rotation)
    if plan and plan != digest:
        raise KeyturnError("precondition_failed", "The plan has changed since you looked at it.")
    return digest


def _decline(rotation: Rotation, said: Said, transition: str, plan: str) -> None:
    if is_requester(rotation, _voter(said.actor)):
        raise denied("You asked for it yourself. To take it back, abort the rotation.")
    digest = _seen_plan(rotation, plan)
    # What others gave is not held against this no: they may give it again.
    standing = Approval.objects.filter(rotation=rotation, transition=transition, expires_at__gt=said.now)
    standing.update(expires_at=said.now)
    note(rotation, said, "declined", transition=transition, plan=digest)
    if transition == "start":
        give_up(rotation, said)
    elif approval_awaited(rotation) is not None:
        stand_still(rotation, said)


def _break_glass(rotation: Rotation, said: Said, transition: str, plan: str) -> None:
    said.actor.demand("manage", rotation.key.service.team_id)
    user = _voter(said.actor)
    if not said.reason.strip():
        raise invalid("reason", "Say why this cannot wait for another person.")
    digest, due = _seen_plan(rotation, plan), said.now + REVIEW_WITHIN
    Approval.objects.create(
        rotation=rotation,
        transition=transition,
        user=user,
        plan=digest,
        reason=said.reason,
        created_at=said.now,
        expires_at=said.now + APPROVAL_LIFE,
        review_due_at=due,
    )
    note(rotation, said, "glass:broken", transition=transition, plan=digest, review_by=due.isoformat())
