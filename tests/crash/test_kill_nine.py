"""kill -9 of whoever moves rotations on, again and again: nothing lost, nothing doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from keyvault.crypto.keyring import Keyring
from tests.conftest import Tell
from tests.scale import scaled

# Half of the thousand on each database.
ROUNDS = scaled("KILLS", 500, 5_000)


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


@pytest.mark.long
@pytest.mark.serial
def test_no_kill_loses_anything_or_doubles_anything(own_installation: dict[str, str], tell: Tell) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.rounds", "--rounds", str(ROUNDS)],
        env=own_installation,
        capture_output=True,
        text=True,
        timeout=120 + ROUNDS,
        check=False,
    )
    assert done.stdout, done.stderr[-4000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    tell("kill -9 of workers", counted)
    assert counted["problems"] == []
    assert done.returncode == 0, done.stderr[-4000:]
    assert counted["killed"] == counted["rounds"] == ROUNDS
    assert counted["rotations"] >= 1, "the rounds must get somewhere"
