"""The management API in this process: Django's handler, on the test database."""

from __future__ import annotations

import pytest

from tests.api.management.world import World


@pytest.fixture
def world(db: None) -> World:
    return World()
