"""The engine moves on while a person says stop: one of both happens, whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from keyvault.actors import SYSTEM
from keyvault.exceptions import KeyturnError
from keyvault.models import KeyVersion
from rotation import engine
from rotation.facts import STAGE_EDGES, Stage
from rotation.models import Operation, Rotation
from rotation.services import verbs
from tests.concurrency.conftest import HASTY
from tests.conftest import Tell
from tests.integration.furniture import at_once, broken_at
from tests.scale import scaled
from tests.stories.world import World

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

ROUNDS = scaled("RACES", 50, 2_000)
STEP = timedelta(seconds=5)


def quiet(_: object) -> None:
    """Rings are kept out of the race."""


def ticks_until(w: World, reached: Callable[[Rotation], bool]) -> int:
    """How many beats a rotation takes to get there; each round takes the same."""
    w.start()
    w.work()
    for n in range(1, 60):
        w.tick(STEP.total_seconds(), traffic=False)
        if reached(w.rotation):
            return n
    raise AssertionError(f"still {w.rotation.stage}: {w.rotation.waiting_for}")


def race(w: World, ticks: int) -> tuple[Rotation, Exception | Rotation, Exception | Rotation]:
    """A fresh rotation, taken to the brink; then the engine and an abort at the same moment."""
    w.now += timedelta(minutes=10)
    rotation = w.start()
    w.work()
    for _ in range(ticks - 1):
        w.tick(STEP.total_seconds(), traffic=False)
    w.now += STEP
    advanced, aborted = at_once(
        lambda: engine.advance(rotation.id, w.now, ring=w.rung.append),
        lambda: verbs.abort(SYSTEM, rotation.id, reason="race", now=w.now, ring=w.rung.append),
    )
    return w.rotation, advanced, aborted


def check_path(rotation: Rotation) -> list[str]:
    """The stages that the timeline tells, in order; every step of it is a legal one."""
    stages = [Stage(event.stage) for event in rotation.events.filter(name="stage").order_by("sequence")]
    path = [Stage.REQUESTED, *stages]
    for step in pairwise(path):
        assert step in STAGE_EDGES, path
    assert path[-1] == rotation.stage
    sequences = list(rotation.events.values_list("sequence", flat=True))
    assert sequences == list(range(1, len(sequences) + 1))
    return [str(stage) for stage in stages]


def check_labels(w: World, current: KeyVersion | None) -> None:
    key = w.key
    assert key.current == current
    assert (key.pending, key.previous, key.weight) == (None, None, None)


@pytest.mark.long
def test_promote_against_abort(world: Callable[..., World], tell: Tell) -> None:
    w = world(policy=replace(HASTY, monitor=timedelta(minutes=1)))
    ticks = ticks_until(w, lambda rotation: rotation.stage == Stage.MONITOR)
    w.run_to("succeeded", step=5, traffic=False)
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        before = w.key.current
        rotation, advanced, aborted = race(w, ticks)
        assert not isinstance(advanced, Exception), advanced
        assert not isinstance(aborted, Exception), aborted
        path = check_path(rotation)
        # Both orders are legal, and both end the same: the abort is the decision.
        assert rotation.stage == Stage.ROLLED_BACK
        outcomes["promoted first" if "monitor" in path else "aborted first"] += 1
        check_labels(w, before)
        assert rotation.incoming is not None
        assert w.version(rotation.incoming.number).withheld_at is not None
        assert rotation.events.filter(name="rollback").count() == 1
        w.run(lambda: w.rotation.check_at is None, step=5, traffic=False)
        assert w.version(rotation.incoming.number).state == "revoked"
    tell("promote against abort", outcomes)
    assert sum(outcomes.values()) == ROUNDS
    assert broken_at() is None


@pytest.mark.long
def test_the_point_of_no_return_against_abort(world: Callable[..., World], tell: Tell) -> None:
    w = world()
    ticks = ticks_until(w, lambda rotation: rotation.revoke_asked_at is not None)
    w.run_to("succeeded", step=5, traffic=False)
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS // 2):
        before = w.key.current
        rotation, advanced, aborted = race(w, ticks)
        assert not isinstance(advanced, Exception), advanced
        asked = Operation.objects.filter(rotation=rotation, kind="revoke", side="outgoing").count()
        if isinstance(aborted, Exception):
            assert isinstance(aborted, KeyturnError), aborted
            assert aborted.code == "invalid_transition"
            assert (rotation.stage, asked) == (Stage.REVOKE, 1)
            outcomes["revoked"] += 1
            w.run_to("succeeded", step=5, traffic=False)
            check_labels(w, w.rotation.incoming)
            assert not w.honoured(before.number if before else 0)
        else:
            assert (rotation.stage, asked) == (Stage.ROLLED_BACK, 0)
            assert rotation.revoke_asked_at is None
            outcomes["aborted"] += 1
            w.run(lambda: w.rotation.check_at is None, step=5, traffic=False)
            check_labels(w, before)
            assert w.honoured(before.number if before else 0)
        check_path(w.rotation)
    tell("revoke against abort", outcomes)
    assert sum(outcomes.values()) == ROUNDS // 2
    assert broken_at() is None


def test_two_people_with_the_same_page_change_it_once(world: Callable[..., World]) -> None:
    w = world()
    rotation = w.start()
    revision = rotation.revision

    def pause() -> Rotation:
        return verbs.pause(SYSTEM, rotation.id, reason="x", now=w.now, revision=revision, ring=quiet)

    outcomes = at_once(*([pause] * 12))
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(refusals) == 11
    assert {refusal.code for refusal in refusals if isinstance(refusal, KeyturnError)} == {
        "precondition_failed"
    }
    assert w.rotation.events.filter(name="paused").count() == 1
