"""What a running rotation stands on is changed or taken away, in every stage: it goes on as it began."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.db.models import Model, ProtectedError

from keyvault.actors import SYSTEM, actor_for
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import Role
from keyvault.models import Key, User
from keyvault.services import people
from rotation import operations
from rotation.models import KeySchedule, Operation, Rotation, RotationPolicy
from rotation.policy import EMERGENCY, Freeze, Policy, Step, to_json
from rotation.services import policies, starting, ticking
from tests.integration.furniture import NOW, Furniture, furnish

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
SWIFT = replace(EMERGENCY, interval=timedelta(days=30), quiet=timedelta(0), force_after=timedelta(0))
# One policy per stage, under which it stays there for an hour.
STAYS: dict[str, Policy] = {
    "requested": replace(SWIFT, freezes=(Freeze(NOW - HOUR, NOW + HOUR, "stocktaking"),)),
    "deploy": SWIFT,
    "shift": replace(SWIFT, steps=(Step(50, HOUR), Step(100, timedelta(0)))),
    "monitor": replace(SWIFT, monitor=HOUR),
    "revoke": replace(SWIFT, cool_off=HOUR),
}


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def quiet(_: object) -> None:
    """Nobody is woken."""


def work(now: datetime) -> None:
    while pending := Operation.objects.filter(state="pending", retry_at__lte=now).first():
        operations.perform(pending.id, now, ring=quiet)


def running(furniture: Furniture, stage: str) -> Rotation:
    """A rotation that ann asked for, in this stage."""
    key = furniture.key(secret=mint(TokenKind.ISSUED, "prod"))  # one that its provider honours
    row = RotationPolicy.objects.create(slug="own", document=to_json(STAYS[stage]), created_at=NOW)
    user = User.objects.create(username="ann")
    people.set_member(SYSTEM, furniture.team, username="ann", role=Role.LEAD, now=NOW)
    rotation = starting.start(actor_for(user), key, policy=row, now=NOW, ring=quiet)
    now = NOW
    while stage != "deploy" and now < NOW + HOUR / 2 and rotation.stage != stage:
        work(now)
        now += timedelta(seconds=20)
        ticking.tick(now, ring=quiet)
        rotation.refresh_from_db()
    assert rotation.stage == stage
    return rotation


def finish(rotation: Rotation) -> None:
    now = NOW + HOUR / 2
    while rotation.is_open and now < NOW + 4 * HOUR:
        work(now)
        now += timedelta(seconds=30)
        ticking.tick(now, ring=quiet)
        rotation.refresh_from_db()
    assert rotation.stage == "succeeded", (rotation.waiting_for, rotation.attention_reason)


@pytest.mark.parametrize("stage", STAYS)
def test_a_policy_that_is_edited_and_deleted_changes_nothing(furniture: Furniture, stage: str) -> None:
    rotation = running(furniture, stage)
    copy = rotation.policy
    own = RotationPolicy.objects.get(slug="own")
    policies.change_policy(SYSTEM, own, document={"monitor": "P30D", "approvals": {"start": 5}}, now=NOW)
    own.delete()
    finish(rotation)
    assert rotation.policy == copy
    assert rotation.policy_slug == "own"


def test_a_policy_that_keys_follow_cannot_be_deleted(furniture: Furniture) -> None:
    policies.assign_policy(SYSTEM, furniture.key(), RotationPolicy.objects.get(slug="fast"), now=NOW)
    with pytest.raises(ProtectedError):
        RotationPolicy.objects.get(slug="fast").delete()
    assert KeySchedule.objects.count() == 1


@pytest.mark.parametrize("stage", STAYS)
def test_who_asked_for_it_may_go(furniture: Furniture, stage: str) -> None:
    rotation = running(furniture, stage)
    User.objects.filter(username="ann").update(is_active=False)
    people.remove_member(SYSTEM, furniture.team, username="ann", now=NOW)
    with pytest.raises(ProtectedError):
        User.objects.get(username="ann").delete()
    finish(rotation)
    assert rotation.requested_by == "ann"


@pytest.mark.parametrize("stage", STAYS)
def test_what_it_works_on_cannot_be_deleted(furniture: Furniture, stage: str) -> None:
    rotation = running(furniture, stage)
    things: tuple[Model, ...] = (
        furniture.provider,
        furniture.service,
        furniture.team,
        furniture.environment(),
        Key.objects.get(pk=rotation.key_id),
    )
    for thing in things:
        with pytest.raises(ProtectedError):
            thing.delete()
    finish(rotation)
