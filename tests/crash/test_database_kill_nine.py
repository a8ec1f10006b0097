"""kill -9 of PostgreSQL while rotations go on: whoever moves them fails, tries again, and nothing is lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, connection

from rotation.models import Rotation
from rotation.simulators import RunningSimulator, start
from tests.conftest import Tell
from tests.crash import rounds
from tests.crash.conftest import Breakable
from tests.integration.processes import wait_for
from tests.scale import scaled
from tests.stories.world import World

pytestmark = [pytest.mark.serial, pytest.mark.postgresql, pytest.mark.long]

KILLS = scaled("DATABASE_KILLS", 50, 500)
LONGEST = 0.3  # seconds that the database lives while somebody works with it
STEPS_BETWEEN = 2


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    running = start(rounds.SIMULATOR)
    yield running
    running.stop()


class Killer(threading.Thread):
    """Kills the database at random instants and starts it again; between, some steps get through."""

    def __init__(self, breakable: Breakable, counted: Counter[str]) -> None:
        super().__init__(daemon=True)
        self._postgresql, self._counted = breakable.postgresql, counted
        self._random = random.Random(20260302)
        self.died: Exception | None = None

    def run(self) -> None:
        try:
            for _ in range(KILLS):
                done = self._counted["steps"]
                wait_for(lambda: self._counted["steps"] >= done + STEPS_BETWEEN, "somebody works again")  # noqa: B023
                threading.Event().wait(self._random.uniform(0, LONGEST))
                self._postgresql.kill()
                self._counted["kills"] += 1
                self._postgresql.start()
        except Exception as error:
            self.died = error


def work(world: World, counted: Counter[str]) -> None:
    """One step as a worker does it: when the database is away, its next task tries again."""
    try:
        rounds.step(world)
        counted["steps"] += 1
    except (DatabaseError, InterfaceError):
        counted["failed steps"] += 1
        connection.close()
        world.now += timedelta(seconds=1)
        # The server needs the processor to recover.
        threading.Event().wait(0.05)


def test_no_kill_of_the_database_loses_a_rotation(
    breakable: Breakable, simulator: RunningSimulator, settings: Any, tell: Tell
) -> None:
    world = World(simulator, settings, policy=rounds.POLICY, instances=3)
    counted: Counter[str] = Counter()
    killer = Killer(breakable, counted)
    killer.start()
    problems: list[str] = []
    try:
        while killer.is_alive():
            work(world, counted)
    finally:
        killer.join(60)
    assert killer.died is None, killer.died
    connection.close()
    problems += rounds.check_now(world)
    world.run(lambda: rounds.at_rest(world), most=600)
    problems += rounds.check_end(world)
    counted["rotations"] = Rotation.objects.filter(key=world.key_id, stage="succeeded").count()
    tell("kill -9 of PostgreSQL", {**counted, "problems": len(problems)})
    assert problems == []
    assert counted["kills"] == KILLS
    assert counted["failed steps"] >= KILLS / 2, "most kills must hit somebody at work"
    assert counted["rotations"] >= 1
