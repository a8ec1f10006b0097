"""What the database itself refuses, and which secrets are not taken into custody."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import STATE_EDGES, State
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent, Key, KeyVersion
from keyvault.services import keys
from rotation.facts import STAGE_EDGES, TERMINAL, Stage
from rotation.models import Rotation
from rotation.policy import STANDARD, to_json
from tests.integration.furniture import (
    GUARDS,
    NOW,
    Furniture,
    fresh_secret,
    furnish,
    reread,
    rotation_guards,
    second_version,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def refused_by_database(change: Callable[[], object]) -> str:
    """Run a change that the database must refuse; returns its message."""
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        change()
    return str(caught.value)


# Edges ---------------------------------------------------------------------------------------------


def test_the_edges_in_the_database_are_those_of_the_rules() -> None:
    assert {(old.value, new.value) for old, new in STATE_EDGES} == set(GUARDS[0].EDGES)
    assert {(old.value, new.value) for old, new in STAGE_EDGES} == set(rotation_guards.EDGES)


def _version_in(furniture: Furniture, state: State) -> KeyVersion:
    """A version that went to this state along legal edges."""
    key = keys.lock_key(furniture.empty_key().id)
    version = keys.request_version(SYSTEM, key, now=NOW)
    if state is State.REQUESTED:
        return version
    if state is State.DESTROYED:
        keys.mark_destroyed(SYSTEM, key, version, now=NOW)
        return version
    keys.fill_version(SYSTEM, key, version, fresh_secret(), provider_key_id="", imported=True, now=NOW)
    if state is State.DISABLED:
        keys.mark_disabled(SYSTEM, key, version, now=NOW)
    if state is State.REVOKED:
        keys.mark_revoked(SYSTEM, key, version, now=NOW)
    return version


def _becomes(version: KeyVersion, state: State) -> Callable[[], object]:
    """An update that satisfies every other constraint of the new state."""
    held = state in (State.ACTIVE, State.DISABLED, State.REVOKED)
    columns: dict[str, object] = {"state": state, "revoked_at": NOW, "destroyed_at": NOW}
    if held and version.ciphertext is None:
        columns |= {"ciphertext": b"sealed", "wrapped_dek": b"wrapped"}
    if not held:
        columns |= {"ciphertext": None, "wrapped_dek": None}
    return lambda: KeyVersion.objects.filter(pk=version.pk).update(**columns)


@pytest.mark.parametrize("new", list(State))
@pytest.mark.parametrize("old", list(State))
def test_a_version_moves_along_its_edges_only(furniture: Furniture, old: State, new: State) -> None:
    version = _version_in(furniture, old)
    change = _becomes(version, new)
    if old is new or (old, new) in STATE_EDGES:
        change()
        assert KeyVersion.objects.get(pk=version.pk).state == new
    else:
        assert "version_edges" in refused_by_database(change)


def _rotation(furniture: Furniture, stage: Stage, key: Key | None = None) -> Rotation:
    return Rotation.objects.create(
        key=key or furniture.empty_key(),
        policy_slug="standard",
        policy=to_json(STANDARD),
        trigger="person",
        requested_by="somebody",
        stage=stage,
        salt=b"salt",
        created_at=NOW,
        stage_entered_at=NOW,
        step_entered_at=NOW,
        deadline_at=NOW + timedelta(days=1),
        finished_at=NOW if stage in TERMINAL else None,
    )


@pytest.mark.parametrize("new", list(Stage))
@pytest.mark.parametrize("old", list(Stage))
def test_a_rotation_moves_along_its_edges_only(furniture: Furniture, old: Stage, new: Stage) -> None:
    rotation = _rotation(furniture, old)

    def change() -> None:
        finished = NOW if new in TERMINAL else None
        Rotation.objects.filter(pk=rotation.pk).update(stage=new, finished_at=finished)

    if old is new or (old, new) in STAGE_EDGES:
        change()
        assert Rotation.objects.get(pk=rotation.pk).stage == new
    else:
        assert "rotation_edges" in refused_by_database(change)


def test_the_weight_of_a_rotation_falls_only_to_zero_in_a_rollback(furniture: Furniture) -> None:
    rotation = _rotation(furniture, Stage.SHIFT)
    row = Rotation.objects.filter(pk=rotation.pk)
    row.update(weight=50)
    for columns in ({"weight": 25}, {"weight": 0}):
        assert "rotation_weight_rises" in refused_by_database(partial(row.update, **columns))
    half = {"stage": Stage.ROLLED_BACK, "weight": 25, "finished_at": NOW}
    assert "rotation_weight_rises" in refused_by_database(lambda: row.update(**half))
    row.update(stage=Stage.ROLLED_BACK, weight=0, finished_at=NOW)
    assert row.get().weight == 0


# Constraints ---------------------------------------------------------------------------------------


def test_a_key_has_one_open_rotation_at_most(furniture: Furniture) -> None:
    key = furniture.empty_key()
    first = _rotation(furniture, Stage.SHIFT, key)
    for stage in set(Stage) - TERMINAL:
        refused_by_database(partial(_rotation, furniture, stage, key))
    for stage in TERMINAL:
        _rotation(furniture, stage, key)
    Rotation.objects.filter(pk=first.pk).update(stage=Stage.ROLLED_BACK, finished_at=NOW)
    _rotation(furniture, Stage.REQUESTED, key)


def test_a_finished_rotation_has_its_date_and_an_open_one_has_none(furniture: Furniture) -> None:
    rotation = _rotation(furniture, Stage.SHIFT)
    row = Rotation.objects.filter(pk=rotation.pk)
    refused_by_database(lambda: row.update(finished_at=NOW))
    refused_by_database(lambda: row.update(stage=Stage.ROLLED_BACK))
    refused_by_database(lambda: row.update(stage="paused"))
    refused_by_database(lambda: row.update(weight=101))


def test_labels_name_three_different_versions(furniture: Furniture) -> None:
    key = furniture.key()
    assert key.current is not None
    other = second_version(key)
    row = Key.objects.filter(pk=key.pk)
    refused_by_database(lambda: row.update(pending=key.current, weight=0))
    refused_by_database(lambda: row.update(previous=key.current))
    refused_by_database(lambda: row.update(pending=other, weight=0, previous=second_version(key)))
    elsewhere = furniture.key("dev")
    refused_by_database(lambda: Key.objects.filter(pk=elsewhere.pk).update(current=key.current))


def test_a_weight_belongs_to_a_pending_version(furniture: Furniture) -> None:
    key = furniture.key()
    other = second_version(key)
    row = Key.objects.filter(pk=key.pk)
    refused_by_database(lambda: row.update(weight=10))
    refused_by_database(lambda: row.update(pending=other))
    refused_by_database(lambda: row.update(pending=other, weight=101))
    row.update(pending=other, weight=100)


def test_a_version_number_and_a_secret_exist_once_in_a_key(furniture: Furniture) -> None:
    key = furniture.key()
    assert key.current is not None
    mark = key.current.fingerprint
    create = partial(KeyVersion.objects.create, key=key, state=State.REQUESTED, created_at=NOW, mac=b"")
    refused_by_database(partial(create, number=1))
    refused_by_database(partial(create, number=2, fingerprint=mark))
    create(number=2)


def test_a_service_has_one_key_in_an_environment(furniture: Furniture) -> None:
    furniture.key()
    refused_by_database(
        lambda: Key.objects.create(
            service=furniture.service, environment=furniture.environment(), created_at=NOW, mac=b""
        )
    )
    with pytest.raises(KeyturnError) as caught:
        furniture.empty_key()
    assert "already" in caught.value.fields["environment"][0]


@pytest.mark.parametrize(
    "columns",
    [
        {"number": 99},
        {"created_at": NOW + timedelta(seconds=1)},
        {"fingerprint": "f" * 64},
        {"fingerprint": ""},
        {"ciphertext": b"another secret"},
    ],
    ids=lambda columns: f"{next(iter(columns))}={next(iter(columns.values()))!r:.12}",
)
def test_a_version_never_changes_what_it_is(furniture: Furniture, columns: dict[str, object]) -> None:
    version = furniture.key().current
    assert version is not None
    change = KeyVersion.objects.filter(pk=version.pk)
    assert "version_immutable" in refused_by_database(lambda: change.update(**columns))


def test_a_version_never_moves_to_another_key(furniture: Furniture) -> None:
    version, elsewhere = furniture.key().current, furniture.empty_key("dev")
    assert version is not None
    row = KeyVersion.objects.filter(pk=version.pk)
    assert "version_immutable" in refused_by_database(lambda: row.update(key=elsewhere))


def test_a_held_version_has_a_secret_and_a_destroyed_one_has_none(furniture: Furniture) -> None:
    version = _version_in(furniture, State.REVOKED)
    row = KeyVersion.objects.filter(pk=version.pk)
    refused_by_database(lambda: row.update(ciphertext=None))
    refused_by_database(lambda: row.update(state=State.DESTROYED))
    refused_by_database(lambda: row.update(revoked_at=None))
    keys.mark_destroyed(SYSTEM, keys.lock_key(version.key_id), version, now=NOW)
    gone = row.get()
    assert (gone.ciphertext, gone.wrapped_dek, gone.kek_kid) == (None, None, "")


def test_audit_events_are_never_changed(furniture: Furniture) -> None:
    furniture.key()
    newest = AuditEvent.objects.order_by("sequence").last()
    assert newest is not None
    row = AuditEvent.objects.filter(pk=newest.pk)
    for columns in ({"actor": "nobody"}, {"at": NOW + timedelta(days=1)}, {"reason": "x"}):
        assert "audit_append_only" in refused_by_database(partial(row.update, **columns))
    again = AuditEvent(sequence=newest.sequence, at=NOW, name="key:created", mac=b"")
    refused_by_database(lambda: again.save(force_insert=True))


def test_an_event_and_its_change_come_and_go_together(furniture: Furniture) -> None:
    before = AuditEvent.objects.count()

    class Stop(Exception):
        pass

    def change() -> None:
        with transaction.atomic():
            furniture.key()
            raise Stop

    with pytest.raises(Stop):
        change()
    assert AuditEvent.objects.count() == before
    assert not Key.objects.filter(service=furniture.service).exists()
    audit.record("key:created", actor=SYSTEM, now=NOW)
    assert AuditEvent.objects.count() == before + 1


def test_the_guards_can_be_taken_back_and_set_again(furniture: Furniture) -> None:
    """Each statement of the migrations has its undo; what is undone is not refused any more."""
    version = furniture.key().current
    assert version is not None
    row = KeyVersion.objects.filter(pk=version.pk)
    vendor = connection.vendor
    with connection.cursor() as cursor:
        for guards in (rotation_guards, *reversed(GUARDS)):
            for statement in guards.UNDO[vendor]:
                cursor.execute(statement)
        row.update(number=99)
        row.update(number=1)
        assert AuditEvent.objects.filter(name="key:created").delete()[0] == 1
        for guards in (*GUARDS, rotation_guards):
            for statement in guards.DO[vendor]:
                cursor.execute(statement)
    assert "version_immutable" in refused_by_database(lambda: row.update(number=99))


# Secrets that are not taken ------------------------------------------------------------------------

REFUSALS = {
    "surrounding_space": (" sk-live-1234", "before or after"),
    "trailing_newline": ("sk-live-1234\n", "before or after"),
    "inner_space": ("Bearer sk-live-1234", "inside"),
    "quotes": ('"sk-live-1234"', "quotation marks"),
    "control_characters": ("sk-live-\x001234", "control"),
    "placeholder": ("YOUR_API_KEY", "placeholder"),
    "own_token": (mint(TokenKind.CONSUMER, "prod").expose(), "own tokens"),
    "empty": ("", "empty"),
    "too_large": ("k" * 32 + "x7" * 40_000, "64 KiB"),
}


@pytest.mark.parametrize(("text", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_doubtful_secret_is_refused_and_the_message_says_why(text: str, words: str) -> None:
    with pytest.raises(SecretRefused) as caught:
        check_secret(text)
    assert words in caught.value.message
    assert not text.strip() or text not in caught.value.message
    assert "1234" not in caught.value.message


def test_every_refusal_has_a_message_of_its_own(furniture: Furniture) -> None:
    messages = set()
    for text, _ in REFUSALS.values():
        with pytest.raises(SecretRefused) as caught:
            check_secret(text)
        messages.add(caught.value.message)
    assert len(messages) == len(REFUSALS) - 1  # both kinds of surrounding space are told alike
    held = fresh_secret()
    key = furniture.key(secret=held)
    for place, reason in ((key, "already_held"), (furniture.empty_key("dev"), "other_environment")):
        with pytest.raises(KeyturnError) as refused, transaction.atomic():
            second_version(place, secret=held)
        assert refused.value.extra["reason"] == reason
        messages.add(refused.value.fields["secret"][0])
    assert len(messages) == len(REFUSALS) + 1


def test_a_secret_of_another_environment_is_refused_whatever_its_service(furniture: Furniture) -> None:
    held = fresh_secret()
    furniture.key("prod", held)
    with pytest.raises(KeyturnError) as caught, transaction.atomic():
        furnish().key("staging", held)
    assert caught.value.extra["reason"] == "other_environment"
    assert "another environment" in caught.value.fields["secret"][0]
    assert held.expose() not in str(caught.value.fields)


def test_a_secret_may_serve_two_services_in_one_environment(furniture: Furniture) -> None:
    held = fresh_secret()
    furniture.key("prod", held)
    assert furnish().key("prod", held).current is not None


def test_a_secret_that_was_revoked_never_comes_back(furniture: Furniture) -> None:
    held = fresh_secret()
    key = keys.lock_key(furniture.key(secret=held).id)
    assert key.current is not None
    keys.mark_revoked(SYSTEM, key, key.current, now=NOW)
    assert reread(key).current is None
    with pytest.raises(KeyturnError) as caught, transaction.atomic():
        keys.import_first(SYSTEM, key, Secret(held.expose()), now=NOW)
    assert "version 1" in caught.value.fields["secret"][0]
