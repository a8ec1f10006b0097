"""Races on PostgreSQL, in real threads with connections of their own, against a real simulator.

Delivery under load runs on both databases, in an installation of its own with two worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pytest_django import DjangoDbBlocker

from rotation.policy import Policy, Step
from rotation.simulators import RunningSimulator, start
from tests.installations import Installation, Web, install, web
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


@pytest.fixture(scope="session")
def _installation(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker
) -> Installation:
    with django_db_blocker.unblock():
        return install(tmp_path_factory.mktemp("load"), os.environ.get("DATABASE_URL", ""))


@pytest.fixture
def installation(_installation: Installation, django_db_blocker: DjangoDbBlocker) -> Iterator[Installation]:
    """In force: rows that a test makes through the services go there, and stay there."""
    with django_db_blocker.unblock(), _installation.in_force():
        yield _installation


@pytest.fixture(scope="session")
def _two_workers(_installation: Installation) -> Iterator[Web]:
    with web(_installation, workers=2) as started:
        yield started


@pytest.fixture
def server(installation: Installation, _two_workers: Web) -> Web:
    """Two worker processes of one web server."""
    return _two_workers
