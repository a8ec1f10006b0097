"""What a process of delivery has in its memory: the keys that it serves, and none that it served before.

Memory is given back without being wiped, so a key lies there until something is written over it. This shows
that nothing holds on to it: as many answers about another key, and it is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from tests.api.delivery.world import World, build
from tests.conftest import Tell
from tests.installations import Installation, Web, install

pytestmark = pytest.mark.once

TIMES = 300


@pytest.fixture
def installation(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Installation]:
    with django_db_blocker.unblock():
        fresh = install(tmp_path, "")
        with fresh.in_force():
            yield fresh


def remembered(installation: Installation, *worlds: World) -> list[int]:
    """How often the key of each is left in a process that delivered them one after the other."""
    questions = [[world.token, world.service.slug, TIMES] for world in worlds]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.leaks.memory_program"],
        input=json.dumps(questions) + "\n",
        env={
            **os.environ,
            "DATABASE_URL": f"sqlite:///{installation.data / 'keyturn.sqlite3'}",
            "KEYTURN_DATA": str(installation.data),
            "KEYTURN_KEYRING": str(installation.data / "keyring.json"),
            # What one thread has given back, no other writes over.
            "KEYTURN_WEB_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    return [found.get(hashlib.sha256(world.secret.encode()).hexdigest(), 0) for world in worlds]


def test_a_key_that_is_not_served_any_more_leaves_the_memory(installation: Installation, tell: Tell) -> None:
    server = Web(installation, 0, 0).server  # the worlds are asked without one
    before, now = remembered(installation, build(server), build(server))
    tell("keys in memory", {"served before": before, "served now": now})
    assert now > 0, "what was served last is still seen"
    assert before == 0
