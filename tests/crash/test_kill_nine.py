"""kill -9 of whoever moves rotations on, again and again: nothing lost, nothing doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from keyvault.crypto.keyring import Keyring
from tests.conftest import Tell
from tests.scale import LONG, scaled

# Beside what is serial: it meets nobody else, and together they would be the longest chain of a run.
pytestmark = pytest.mark.xdist_group("kills")

APPS = ("auth", "keyvault", "rotation")
ROUNDS = scaled("KILLS", 500, 5_000)  # on each database


@pytest.fixture
def own_installation(tmp_path: Path, database_vendor: str) -> Iterator[dict[str, str]]:
    """A data directory and a database that nobody else uses."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    Keyring.create_file(data / "keyring.json", ["dev", "staging", "prod", "system"])
    environment = {**os.environ, "KEYTURN_DATA": str(data), "KEYTURN_LOG_LEVEL": "ERROR"}
    if database_vendor == "sqlite":
        environment.pop("DATABASE_URL", None)
        yield environment
        return
    url, name = os.environ["DATABASE_URL"], f"crash_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    parts = urlsplit(url)
    yield {**environment, "DATABASE_URL": urlunsplit(parts._replace(path=f"/{name}"))}
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def run(module: str, environment: dict[str, str], *options: str, timeout: int) -> dict[str, Any]:
    """Run one of the programs beside this file; returns what it counted."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.stdout, done.stderr[-4000:]
    counted: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert bool(counted["problems"]) == bool(done.returncode), done.stderr[-4000:]
    return counted


@pytest.mark.long
def test_death_while_a_migration_is_recorded_leaves_one_that_can_go_on(
    own_installation: dict[str, str], tmp_path: Path, tell: Tell
) -> None:
    apps = [] if LONG else ["--apps", *APPS]
    counted = run(
        "tests.crash.migrating", own_installation, "--deaths", str(tmp_path / "deaths"), *apps, timeout=900
    )
    tell("death at migrations", counted)
    assert counted["problems"] == []
    assert counted["deaths"] >= len(APPS)


@pytest.mark.postgresql
def test_death_at_every_named_point_loses_nothing(own_installation: dict[str, str], tell: Tell) -> None:
    counted = run("tests.crash.points", own_installation, timeout=900)
    tell("death at named points", {"deaths": counted["deaths"], **counted["points"]})
    assert counted["problems"] == []
    assert len(counted["points"]) == 11, "every named point is passed"


@pytest.mark.long
def test_no_kill_loses_anything_or_doubles_anything(own_installation: dict[str, str], tell: Tell) -> None:
    counted = run("tests.crash.rounds", own_installation, "--rounds", str(ROUNDS), timeout=300 + 2 * ROUNDS)
    tell("kill -9 of workers", counted)
    assert counted["problems"] == []
    assert counted["killed"] == counted["rounds"] == ROUNDS
    assert counted["rotations"] >= 1, "the rounds must get somewhere"
