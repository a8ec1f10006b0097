"""Every test of delivery talks to the running server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.conftest import Server
from tests.api.delivery.world import World, build


@pytest.fixture
def make(installed: Server) -> Callable[..., World]:
    """Make a world: ``make(environment="dev", verbs=["read"])``."""

    def _make(**more: object) -> World:
        return build(installed, **more)  # type: ignore[arg-type]

    return _make


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()
