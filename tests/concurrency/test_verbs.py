"""The engine moves on while a person says stop: one of both happens, whole."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from tests.concurrency.brink import Brink, Racers
from tests.concurrency.conftest import HASTY
from tests.conftest import Tell
from tests.integration.furniture import at_once, broken_at
from tests.scale import scaled
from tests.stories.world import World

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

ROUNDS = scaled("RACES", 1_000, 10_000)  # of each kind
FROM_ONE_BRINK = 100  # the last of them goes on to its end at the provider
AHEAD = 0.02  # seconds that one of both sets out before the other, at most
STEP = timedelta(seconds=5)


def quiet(_: object) -> None:
    """Rings are kept out of the race."""


@dataclass(frozen=True)
class Race:
    """How one ended: the rotation as it stands, what it replaces, and what the person was told."""

    rotation: Rotation
    outgoing: KeyVersion | None
    aborted: Exception | Rotation
    goes_on: bool


def ticks_until(w: World, reached: Callable[[Rotation], bool]) -> int:
    """How many beats a rotation takes to get there; each round takes the same."""
    w.start()
    w.work()
    for n in range(1, 60):
        w.tick(STEP.total_seconds(), traffic=False)
        if reached(w.rotation):
            return n
    raise AssertionError(f"still {w.rotation.stage}: {w.rotation.waiting_for}")


@contextmanager
def brink(w: World, ticks: int) -> Iterator[Callable[[], None]]:
    """A fresh rotation, taken to the brink; what is given goes back there. No worker runs meanwhile, so
    nothing happens at the provider that could not be taken back."""
    w.now += timedelta(minutes=10)
    w.start()
    w.work()
    for _ in range(ticks - 1):
        w.tick(STEP.total_seconds(), traffic=False)
    w.now += STEP
    now, kept = w.now, Brink()

    def back() -> None:
        kept.restore()
        w.rung.clear()
        w.now = now

    yield back
    kept.forget()


@pytest.fixture
def racers() -> Iterator[Racers]:
    both = Racers()
    yield both
    both.stop()


def races(w: World, ticks: int, racers: Racers) -> Iterator[Race]:
    """The engine and an abort at nearly the same moment, ``ROUNDS`` times."""
    rng = random.Random(20260302)
    for _ in range(ROUNDS // FROM_ONE_BRINK):
        with brink(w, ticks) as back:
            for n in range(1, FROM_ONE_BRINK + 1):
                if n > 1:
                    back()
                outgoing = w.rotation.outgoing
                aborted = the_race(w, racers, ahead=rng.uniform(-AHEAD, AHEAD))
                yield Race(w.rotation, outgoing, aborted, goes_on=n == FROM_ONE_BRINK)


def the_race(w: World, racers: Racers, ahead: float) -> Exception | Rotation:
    """What the person was told; the engine sets out so many seconds ``ahead`` (or, below zero, behind)."""
    rotation_id = w.rotation.id

    def advance() -> Rotation:
        threading.Event().wait(max(0.0, -ahead))
        return engine.advance(rotation_id, w.now, ring=w.rung.append)

    def abort() -> Rotation:
        threading.Event().wait(max(0.0, ahead))
        return verbs.abort(SYSTEM, rotation_id, reason="race", now=w.now, ring=w.rung.append)

    advanced, aborted = racers.race(advance, abort)
    assert not isinstance(advanced, Exception), advanced
    return aborted


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


def follow_to_the_end(w: World, race: Race) -> None:
    """Whoever won: one of the two keys dies at the provider, and the other is the current one."""
    revoked = isinstance(race.aborted, Exception)
    if revoked:
        w.run_to("succeeded", step=5, traffic=False)
    else:
        w.run(lambda: w.rotation.check_at is None, step=5, traffic=False)
    check_labels(w, w.rotation.incoming if revoked else race.outgoing)
    assert race.outgoing is not None
    assert w.honoured(race.outgoing.number) is not revoked


@pytest.mark.long
def test_promote_against_abort(world: Callable[..., World], racers: Racers, tell: Tell) -> None:
    w = world(policy=replace(HASTY, monitor=timedelta(minutes=1)))
    ticks = ticks_until(w, lambda rotation: rotation.stage == Stage.MONITOR)
    w.run_to("succeeded", step=5, traffic=False)
    outcomes: Counter[str] = Counter()
    for race in races(w, ticks, racers):
        rotation = race.rotation
        assert not isinstance(race.aborted, Exception), race.aborted
        path = check_path(rotation)
        # Both orders are legal, and both end the same: the abort is the decision.
        assert rotation.stage == Stage.ROLLED_BACK
        outcomes["promoted first" if "monitor" in path else "aborted first"] += 1
        check_labels(w, race.outgoing)
        assert rotation.incoming is not None
        assert w.version(rotation.incoming.number).withheld_at is not None
        assert rotation.events.filter(name="rollback").count() == 1
        if race.goes_on:
            w.run(lambda: w.rotation.check_at is None, step=5, traffic=False)
            assert w.version(rotation.incoming.number).state == "revoked"
            outcomes["followed to the end"] += 1
    tell("promote against abort", outcomes)
    assert outcomes["promoted first"] + outcomes["aborted first"] == ROUNDS
    assert broken_at() is None


@pytest.mark.long
def test_the_point_of_no_return_against_abort(
    world: Callable[..., World], racers: Racers, tell: Tell
) -> None:
    # With a cool-off it is the engine that asks for the revoke, and not what a worker brings back.
    w = world(policy=replace(HASTY, cool_off=timedelta(seconds=30)))
    ticks = ticks_until(w, lambda rotation: rotation.revoke_asked_at is not None)
    w.run_to("succeeded", step=5, traffic=False)
    outcomes: Counter[str] = Counter()
    for race in races(w, ticks, racers):
        rotation = race.rotation
        asked = Operation.objects.filter(rotation=rotation, kind="revoke", side="outgoing").count()
        if isinstance(race.aborted, Exception):
            assert isinstance(race.aborted, KeyturnError), race.aborted
            assert race.aborted.code == "invalid_transition"
            assert (rotation.stage, asked) == (Stage.REVOKE, 1)
            outcomes["revoked"] += 1
        else:
            # The outgoing version cools off: it is enabled first, then everything goes back.
            assert (rotation.stage, asked) == (Stage.REVOKE, 0)
            assert rotation.revoke_asked_at is None
            enable = Operation.objects.filter(rotation=rotation, kind="enable", side="outgoing")
            assert enable.count() == 1
            outcomes["aborted"] += 1
        if race.goes_on:
            follow_to_the_end(w, race)
            outcomes["followed to the end"] += 1
        check_path(w.rotation)
    tell("revoke against abort", outcomes)
    assert outcomes["revoked"] + outcomes["aborted"] == ROUNDS
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
