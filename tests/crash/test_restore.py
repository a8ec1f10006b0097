"""A backup is put back while rotations run: nothing is asked of a provider until a person has looked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.db import connection

from keyvault.actors import SYSTEM
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent
from rotation.facts import Kind
from rotation.models import KeySchedule, Operation, Rotation
from rotation.services import policies, reconciling, restoring
from rotation.simulators import RunningSimulator, start
from tests.installations import Installation
from tests.stories.conftest import BRISK
from tests.stories.world import World

pytestmark = pytest.mark.xdist_group("restore")


class Backup:
    """A real copy of the installation's database, that can be put back."""

    def __init__(self, installation: Installation) -> None:
        self._file = installation.data / "keyturn.sqlite3"
        self._url = installation.url
        self._name = urlsplit(installation.url).path.removeprefix("/")

    def take(self) -> None:
        if not self._url:
            with connection.cursor() as cursor:
                cursor.execute("VACUUM INTO %s", [str(self._file.with_name("backup.sqlite3"))])
            return
        self._recreate(f"{self._name}_backup", self._name)

    def put_back(self) -> None:
        connection.close()
        if not self._url:
            for rest in ("-wal", "-shm"):
                Path(f"{self._file}{rest}").unlink(missing_ok=True)
            shutil.copyfile(self._file.with_name("backup.sqlite3"), self._file)
            return
        self._recreate(self._name, f"{self._name}_backup")

    def _recreate(self, name: str, template: str) -> None:
        connection.close()
        server = urlunsplit(urlsplit(self._url)._replace(path="/postgres"))
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


@pytest.fixture
def provider() -> Iterator[RunningSimulator]:
    running = start("removit")
    yield running
    running.stop()


@pytest.fixture
def w(installation: Installation, provider: RunningSimulator, settings: Any) -> World:
    settings.KEYTURN_DATA = installation.data
    settings.KEYTURN_KEYRING = installation.data / "keyring.json"
    return World(provider, settings, policy=BRISK)


def beat(w: World, seconds: float = 10) -> int:
    """What the scheduler does: watch the mark, then tick."""
    w.now += timedelta(seconds=seconds)
    stopped = restoring.watch(w.now)
    w.tick(0, traffic=False)
    return stopped


def run(w: World, until: Callable[[], bool]) -> None:
    for _ in range(200):
        if until():
            return
        w.traffic()
        beat(w)
    raise AssertionError(w.rotation.waiting_for)


def issued(w: World) -> Operation:
    return Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)


def test_open_rotations_stop_and_no_provider_is_called_until_a_person_resumes(
    w: World, installation: Installation
) -> None:
    backup = Backup(installation)
    schedule = policies.assign_policy(SYSTEM, w.key, w.policy, now=w.now)
    KeySchedule.objects.filter(pk=schedule.pk).update(next_rotation_at=w.now + timedelta(minutes=1))
    w.start()
    w.rung.clear()
    restoring.watch(w.now)
    backup.take()
    label = issued(w).label
    run(w, lambda: w.rotation.stage == "shift")
    beat(w)
    views = w.control.keys
    made = [view.id for view in views() if view.label == label]
    assert len(made) == 1

    backup.put_back()
    assert issued(w).state == "pending", "the backup knows nothing of the key that was made"
    w.rung.clear()
    counted = w.control.counters()["total"]
    assert beat(w) == 1
    with pytest.raises(KeyturnError, match="held back"):
        w.ask_all()
    for _ in range(30):
        assert beat(w, 60) == 0
    assert w.rotation.attention == "restored"
    assert w.rotation.stage == "deploy"
    assert w.control.counters()["total"] == counted
    assert [view.id for view in views() if view.label == label] == made
    assert Rotation.objects.count() == 1
    told = AuditEvent.objects.get(name="database:restored")
    assert told.details["rotations"] == 1
    assert told.details["lost"] > 0
    assert AuditEvent.objects.filter(name="rotation:attention").count() == 1
    assert KeySchedule.objects.get().next_rotation_at == told.at + restoring.STARTS_WAIT

    done = reconciling.reconcile(SYSTEM, now=w.now)
    del w.desk  # a desk does not follow the change log, as a server does
    assert done.complete
    assert done.held == []
    without = {k: v for k, v in w.provider.driver_config.items() if k != "idempotency_header"}
    w.provider.driver_config = without
    w.provider.save()
    w.verb("resume")
    run(w, lambda: w.rotation.stage == "succeeded")
    assert [view.state for view in views() if view.id in made] == ["revoked"], "the orphan was reconciled"
    assert len([view for view in views() if view.live]) == 1
    assert w.failures == {}


def test_a_person_may_abort_instead(w: World, installation: Installation) -> None:
    backup = Backup(installation)
    w.start()
    run(w, lambda: w.rotation.stage == "shift")
    backup.take()
    run(w, lambda: w.rotation.stage == "monitor")
    backup.put_back()
    w.rung.clear()
    assert beat(w) == 1
    reconciling.reconcile(SYSTEM, now=w.now)
    w.verb("abort")
    assert w.rotation.stage == "rolled_back"
    assert w.honoured(1)


def test_a_database_that_went_back_and_on_again_is_found_out_by_its_chain(
    w: World, installation: Installation
) -> None:
    backup = Backup(installation)
    w.start()
    restoring.watch(w.now)
    backup.take()
    policies.assign_policy(SYSTEM, w.key, w.policy, now=w.now)
    restoring.watch(w.now)
    backup.put_back()
    for _ in range(5):  # somebody works with it before a scheduler looks
        policies.assign_policy(SYSTEM, w.key, w.policy, now=w.now + timedelta(seconds=1))
    assert beat(w) == 1


def test_what_only_goes_on_is_no_restore(w: World) -> None:
    w.start()
    run(w, lambda: w.rotation.stage == "monitor")
    assert not AuditEvent.objects.filter(name="database:restored").exists()
    assert w.rotation.attention == ""


def test_the_second_scheduler_does_not_tell_it_again(w: World, installation: Installation) -> None:
    backup = Backup(installation)
    w.start()
    backup.take()
    beat(w)
    beat(w)
    mark = installation.data / "mark.json"
    other_host = mark.read_text()
    backup.put_back()
    w.rung.clear()
    assert beat(w) == 1
    w.verb("resume")
    mark.write_text(other_host)
    assert beat(w) == 0
    assert AuditEvent.objects.filter(name="database:restored").count() == 1
    assert w.rotation.attention == ""


def test_the_mark_is_private_and_may_be_lost_or_torn(w: World, installation: Installation) -> None:
    w.start()
    beat(w)
    mark = installation.data / "mark.json"
    assert os.stat(mark).st_mode & 0o777 == 0o600
    known = json.loads(mark.read_text())
    for content in ("", "{", "[]", '{"changes": 1}'):
        mark.write_text(content)
        assert beat(w) == 0
        assert json.loads(mark.read_text())["installation"] == known["installation"]
    mark.unlink()
    assert beat(w) == 0
    mark.write_text(json.dumps({**known, "installation": "another", "changes": 10**9}))
    assert beat(w) == 0, "the mark of another installation says nothing"
