"""The commands of manage.py: what they print, what they change, how they end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery.signals import before_task_publish
from django.db import connections

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import OrganisationRole, Role
from keyvault.models import AuditEvent, Key, KeyVersion
from keyvault.services import people
from rotation.facts import TERMINAL
from rotation.models import KeySchedule, Operation, Rotation, RotationPolicy
from rotation.services import policies, verbs
from rotation.services.performing import beat_and_perform
from tests.integration.furniture import NOW, PATIENCE, Furniture, furnish
from tests.integration.management import refused, run

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


# tick ----------------------------------------------------------------------------------------------


def make_due() -> Key:
    """A key that must be rotated now; its provider is Keyturn itself."""
    key = furnish().key(secret=mint(TokenKind.ISSUED, "prod"))
    policies.assign_policy(SYSTEM, key, RotationPolicy.objects.get(slug="fast"), now=NOW)
    KeySchedule.objects.filter(key=key).update(next_rotation_at=NOW)
    return key


@pytest.fixture
def doorbell() -> Iterator[list[object]]:
    """What is sent to the broker: the ids of operations."""
    rung: list[object] = []

    def sent(sender: object = None, body: Any = None, **_: object) -> None:
        rung.append(body[0][0])

    # Celery keeps the list of listeners that it saw first, and replaces it when one that is held weakly dies.
    before_task_publish.connect(sent, weak=False)
    yield rung
    before_task_publish.disconnect(sent)


@pytest.mark.django_db(transaction=True)
def test_tick_starts_what_is_due_and_rings(transactional_db: None, doorbell: list[object]) -> None:
    make_due()
    assert "rotation(s) looked at" in run("tick")
    operation = Operation.objects.get()
    assert (operation.kind, operation.state) == ("issue", "pending")
    assert str(operation.id) in doorbell


@pytest.mark.django_db(transaction=True)
def test_tick_with_perform_needs_no_worker(transactional_db: None) -> None:
    make_due()
    said = json.loads(run("tick", "--perform", "--json"))
    assert said["performed"] >= 2
    assert said["failed"] == 0
    rotation = Rotation.objects.get()
    assert rotation.stage == "shift"
    assert rotation.weight == 100
    assert not Operation.objects.filter(state="running").exists()


def test_tick_says_what_it_did(furniture: Furniture) -> None:
    make_due()
    lines = run("tick", "--perform").splitlines()
    assert lines[0].endswith("rotation(s) looked at")
    assert "operation(s) performed" in lines[1]


@pytest.mark.django_db(transaction=True)
def test_tick_goes_on_when_one_operation_breaks(transactional_db: None) -> None:
    """A version that was changed behind our back stops its own rotation, not those of others."""
    broken = make_due()
    run("tick", "--perform")
    KeyVersion.objects.filter(key=broken, number=2).update(wrapped_dek=b"broken")
    Operation.objects.filter(rotation__key=broken, kind="probe", side="incoming").update(
        state="pending", retry_at=NOW, finished_at=None
    )
    other = make_due()
    said, error = refused("tick", "--perform")
    assert error.returncode == 1
    assert "1 operation(s) raised an error" in str(error)
    assert "looked at" in said
    assert Rotation.objects.get(key=other).stage == "shift"


# rotate --------------------------------------------------------------------------------------------


def test_rotate_dry_run_shows_the_plan_and_changes_nothing(furniture: Furniture) -> None:
    key = furniture.key()
    before = AuditEvent.objects.count()
    said = run("rotate", furniture.service.slug, "prod", "--dry-run")
    assert f"{furniture.service.slug}/prod: v1 would be replaced by v2 under the policy standard" in said
    assert "revoke outgoing, by the driver" in said
    document = json.loads(
        run("rotate", furniture.service.slug, "prod", "--dry-run", "--json", "--policy=fast")
    )
    assert (document["policy"], document["outgoing"], document["incoming"]) == ("fast", 1, 2)
    assert AuditEvent.objects.count() == before
    assert not Rotation.objects.filter(key=key).exists()


def test_rotate_starts_as_keyturn_itself(furniture: Furniture, doorbell: list[object]) -> None:
    furniture.key()
    said = run("rotate", furniture.service.slug, "prod", "--reason", "audit finding", "--json")
    rotation = Rotation.objects.get()
    document = json.loads(said)
    assert document["rotation"] == str(rotation.id)
    assert document["stage"] == rotation.stage == "deploy"
    assert (rotation.requested_by, rotation.reason, rotation.policy_slug) == (
        "keyturn",
        "audit finding",
        "standard",
    )
    _, error = refused("rotate", furniture.service.slug, "prod")
    assert "open" in str(error)
    _, error = refused("rotate", furniture.service.slug, "prod", "--dry-run")
    assert "refused" in str(error)


def test_rotate_acts_with_a_persons_rights(furniture: Furniture) -> None:
    furniture.key()
    for name in ("viewer", "stranger", "operator"):
        people.create_person(name, "a long enough password", role=OrganisationRole.NONE)
    people.set_member(SYSTEM, furniture.team, username="viewer", role=Role.VIEWER, now=NOW)
    people.set_member(SYSTEM, furniture.team, username="operator", role=Role.OPERATOR, now=NOW)
    where = (furniture.service.slug, "prod")
    assert "operator or lead" in str(refused("rotate", *where, "--as", "viewer")[1])
    assert "no key" in str(refused("rotate", *where, "--as", "stranger")[1])
    assert "no active person" in str(refused("rotate", *where, "--as", "nobody")[1])
    assert not Rotation.objects.exists()
    run("rotate", *where, "--as", "operator", "--policy", "fast")
    assert Rotation.objects.get().requested_by == "operator"


def test_rotate_names_what_it_does_not_know(furniture: Furniture) -> None:
    furniture.key()
    assert "no key" in str(refused("rotate", furniture.service.slug, "dev")[1])
    assert "no key" in str(refused("rotate", "nothing", "prod")[1])
    said = str(refused("rotate", furniture.service.slug, "prod", "--policy", "slow")[1])
    assert "emergency, fast, standard" in said


class Worker:
    """What beat and worker do, in a thread of its own, on a real clock."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.error: Exception | None = None

    def _run(self) -> None:
        try:
            while not self.stop.wait(0.05):
                beat_and_perform(clock.now)
        except Exception as error:
            self.error = error
        finally:
            connections.close_all()

    def __enter__(self) -> Worker:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.error is None, self.error


@pytest.mark.django_db(transaction=True)
def test_rotate_waits_until_the_key_is_replaced(
    transactional_db: None, settings: Any, doorbell: list[object]
) -> None:
    settings.KEYTURN_TICK = 1
    furniture = furnish()
    furniture.empty_key()
    with Worker():
        said = run("rotate", furniture.service.slug, "prod", "--wait")
    assert "succeeded" in said.splitlines()[-1]
    assert Rotation.objects.get().trigger == "first"


@pytest.mark.django_db(transaction=True)
def test_rotate_stops_waiting_where_a_person_must_act(
    transactional_db: None, settings: Any, doorbell: list[object]
) -> None:
    settings.KEYTURN_TICK = 1
    furniture = furnish("backgrounderase")
    furniture.key()
    with Worker():
        said, error = refused("rotate", furniture.service.slug, "prod", "--wait")
    assert error.returncode == 2
    assert "paste it here" in str(error)
    assert "deploy" in said


@pytest.mark.django_db(transaction=True)
def test_rotate_says_when_it_was_given_up(
    transactional_db: None, settings: Any, doorbell: list[object]
) -> None:
    settings.KEYTURN_TICK = 1
    furniture = furnish("removit")
    furniture.key()

    def give_up() -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                rotation = Rotation.objects.first()
                if rotation is not None:
                    verbs.abort(SYSTEM, rotation.id, reason="no", now=clock.now(), ring=lambda _: None)
                    return
        finally:
            connections.close_all()

    thread = threading.Thread(target=give_up, daemon=True)
    thread.start()
    _, error = refused("rotate", furniture.service.slug, "prod", "--wait")
    thread.join(PATIENCE)
    assert error.returncode == 1
    assert Rotation.objects.get().stage in TERMINAL
