"""Whether keys and rotations stand where the audit events of their history leave them."""

from __future__ import annotations

from collections.abc import Iterator

from keyvault.models import Key, KeyVersion
from keyvault.services import verifying
from rotation.models import Rotation
from rotation.replay import KeyLabels, Replay, RotationState, Unlikely

PAGE = 2_000


def rebuilt(*, until: int) -> Replay:
    """Keys and rotations as the events up to this sequence tell them. Raises ``Unlikely``."""
    replay = Replay()
    replay.apply_all(verifying.events(until=until))
    return replay


def differences(*, until: int) -> Iterator[str]:
    """What stands otherwise in the tables than the events tell; each is a sentence.

    Call it while nobody changes anything, or ask again: a change that commits meanwhile looks like one.
    """
    try:
        replay = rebuilt(until=until)
    except Unlikely as unlikely:
        yield str(unlikely)
        return
    yield from _keys(replay)
    yield from _versions(replay)
    yield from _rotations(replay)


def _keys(replay: Replay) -> Iterator[str]:
    told = dict(replay.keys)
    rows = Key.objects.order_by("id").values_list(
        "service__slug", "environment__slug",
        "current__number", "pending__number", "previous__number", "weight",
    )  # fmt: skip
    for service, environment, *labels in rows.iterator(PAGE):
        expected = told.pop((service, environment), None)
        if expected != KeyLabels(*labels):
            yield f"The key {service}/{environment} has other labels than its events tell."
    for service, environment in told:
        yield f"The key {service}/{environment} is gone, and no event tells of that."


def _versions(replay: Replay) -> Iterator[str]:
    told = dict(replay.versions)
    rows = KeyVersion.objects.order_by("id").values_list(
        "key__service__slug", "key__environment__slug", "number", "state"
    )
    for service, environment, number, state in rows.iterator(PAGE):
        if told.pop((service, environment, number), None) != state:
            yield f"Version {number} of {service}/{environment} is {state}, which its events do not tell."
    for service, environment, number in told:
        yield f"Version {number} of {service}/{environment} is gone, and no event tells of that."


def _rotations(replay: Replay) -> Iterator[str]:
    told = dict(replay.rotations)
    rows = Rotation.objects.order_by("id").values_list(
        "id", "stage", "weight", "paused", "attention", "finished_at"
    )
    for rotation_id, stage, weight, paused, attention, finished_at in rows.iterator(PAGE):
        state = RotationState(stage, weight, paused, attention, finished_at is not None)
        if told.pop(str(rotation_id), None) != state:
            yield f"The rotation {rotation_id} stands at {stage}, otherwise than its events tell."
    for gone in told:
        yield f"The rotation {gone} is gone, and no event tells of that."
