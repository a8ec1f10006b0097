"""Races on PostgreSQL, in real threads with connections of their own, against a real simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from rotation.policy import Policy, Step
from rotation.simulators import RunningSimulator, start
from tests.integration.furniture import Furniture, furnish
from tests.stories.world import World

# Nothing is waited for but the verdicts themselves.
HASTY = Policy(
    interval=timedelta(days=30),
    steps=(Step(100, timedelta(0)),),
    monitor=timedelta(0),
    quiet=timedelta(0),
    cool_off=timedelta(0),
    deadline=timedelta(days=1),
    window=timedelta(seconds=10),
    probe_every=timedelta(seconds=5),
    refresh=timedelta(seconds=1),
    min_samples=1,
    allow_idle=True,
)


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    running = start("removit")
    yield running
    running.stop()


@pytest.fixture
def world(transactional_db: None, simulator: RunningSimulator, settings: Any) -> Callable[..., World]:
    def build(**more: Any) -> World:
        return World(simulator, settings, **{"policy": HASTY, "instances": 0, **more})

    return build


@pytest.fixture
def furniture(transactional_db: None) -> Furniture:
    return furnish()
