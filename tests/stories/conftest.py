"""Stories share one simulator of each kind a session; every story has its own key there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyvault.models import AuditHead
from rotation.policy import STANDARD, Policy, Step
from rotation.services import replaying
from rotation.simulators import RunningSimulator, start
from tests.stories.world import World

MINUTE = timedelta(minutes=1)

# The standard policy with every time shortened, so that a story reads in minutes.
BRISK = Policy(
    interval=timedelta(days=30),
    steps=(Step(25, MINUTE), Step(50, MINUTE), Step(100, MINUTE)),
    monitor=5 * MINUTE,
    quiet=2 * MINUTE,
    cool_off=2 * MINUTE,
    deadline=timedelta(hours=3),
    window=MINUTE,
    probe_every=MINUTE,
    refresh=timedelta(seconds=10),
    min_samples=10,
)


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    running = start("removit")
    yield running
    running.stop()


@pytest.fixture
def dashboard() -> Iterator[RunningSimulator]:
    """The provider whose keys a person makes on a page."""
    running = start("backgrounderase")
    yield running
    running.stop()


@pytest.fixture
def legacy() -> Iterator[RunningSimulator]:
    """The provider with old routes that need no key at all."""
    running = start("removebgvideo")
    yield running
    running.stop()


@pytest.fixture
def world(db: None, simulator: RunningSimulator, settings: Any) -> Iterator[Callable[..., World]]:
    def build(**more: Any) -> World:
        return World(simulator, settings, **{"policy": BRISK, **more})

    yield build
    head = AuditHead.objects.first()
    if head is not None:
        # Whatever the story was: its events alone tell where everything stands.
        assert list(replaying.differences(until=head.sequence)) == []


@pytest.fixture
def brisk() -> Policy:
    return BRISK


@pytest.fixture
def standard() -> Policy:
    return STANDARD
