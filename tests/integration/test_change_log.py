"""The change log on a real database: whoever changes what delivery keeps in memory, the counter tells.

Changes are made here with ``QuerySet.update`` and the like, around every service: triggers note them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, models, transaction

from keyvault.delivery.cache import Noted
from keyvault.models import (
    Change,
    ChangeCounter,
    Consumer,
    ConsumerToken,
    Environment,
    Grant,
    Key,
    KeyVersion,
    OpenJobs,
    Provider,
    Service,
    Team,
)
from tests.integration.furniture import NOW, fresh_secret, furnish, reread, second_version, without_guards

pytestmark = pytest.mark.django_db(transaction=True)

WATCHED = importlib.import_module("keyvault.migrations.0014_instance_limit").WATCHED
# Rules of the tables: another value of this column alone is refused, so something goes with it.
ALONG: dict[tuple[str, str], dict[str, Any]] = {
    ("keyvault_key", "previous_id"): {"pending_id": None, "weight": None},
    ("keyvault_keyversion", "state"): {"state": "disabled"},
    ("keyvault_provider", "errors"): {"errors": "flat"},
}
JOBS_COUNT = ("keyvault_openjobs", "open")  # told only from none to some and back
VERSION_KEY = ("keyvault_keyversion", "key_id")  # what a change is told of; the guards refuse to move it


@dataclass
class Rows:
    """One row of every watched table, and others for its foreign keys to point at."""

    watched: dict[str, Any]
    others: dict[Any, Any]


@pytest.fixture
def rows(transactional_db: None) -> Rows:
    # Emptying the tables after the test before was told too, and not in the order of its numbers.
    Change.objects.all().delete()
    ChangeCounter.objects.all().delete()
    mine, other = furnish(), furnish("removit")
    key = mine.key()
    token, _ = mine.reader()
    offered, third = second_version(key), second_version(key)
    Key.objects.filter(pk=key.pk).update(pending=offered, weight=10, split_salt=b"s")
    jobs = OpenJobs.objects.create(
        version=offered, consumer=token.consumer, instance="web-1", open=2, last_to_at=NOW
    )
    grant = Grant.objects.get(consumer=token.consumer)
    watched: list[Any] = [token, grant, reread(key), offered, jobs, token.consumer, key.environment]
    watched += [mine.service, mine.provider]
    return Rows(
        {row._meta.db_table: row for row in watched},
        {
            Team: other.team,
            Provider: other.provider,
            Service: other.service,
            Environment: other.environment("dev"),
            Consumer: other.consumer(),
            ConsumerToken: mine.reader()[0],
            KeyVersion: third,
        },
    )


def seq() -> int:
    return ChangeCounter.objects.values_list("seq", flat=True).first() or 0


@contextmanager
def telling(expected: set[Noted], what: str) -> Iterator[None]:
    """What the body commits is told as ``expected``; where that is nothing the counter stands still."""
    before = seq()
    yield
    told = Change.objects.filter(seq__gt=before).values_list("kind", "ref", "parent")
    assert {Noted(*entry) for entry in told} == expected, what
    assert (seq() > before) == bool(expected), what


def told_of(row: Any) -> Noted:
    watch = WATCHED[row._meta.db_table]
    return Noted(watch.kind, getattr(row, watch.ref), getattr(row, watch.parent) if watch.parent else None)


def another(field: Any, row: Any, rows: Rows) -> Any:
    """A value for this field that the row does not have."""
    held = getattr(row, field.attname)
    if isinstance(field, models.ForeignKey):
        return rows.others[field.related_model].pk
    makers: tuple[tuple[type[Any], Callable[[], Any]], ...] = (
        (models.BooleanField, lambda: not held),
        (models.DateTimeField, lambda: (held or NOW) + timedelta(hours=1)),
        (models.BinaryField, lambda: os.urandom(32)),
        (models.JSONField, lambda: ["10.0.0.0/8"]),
        (models.IntegerField, lambda: (held or 0) + 7),
        (models.CharField, lambda: f"x{held}"[:8]),
    )
    return next(make() for kind, make in makers if isinstance(field, kind))


def test_an_update_is_told_where_its_column_is_watched_and_nowhere_else(rows: Rows) -> None:
    tried = set()
    with without_guards():
        for table, row in rows.watched.items():
            for field in row._meta.concrete_fields:
                place = (table, field.column)
                if not field.primary_key and place not in (JOBS_COUNT, VERSION_KEY):
                    move(place, field, row, rows)
                    tried.add(place)
    watched = {(table, column) for table, watch in WATCHED.items() for column in watch.columns}
    assert watched - tried == {JOBS_COUNT, VERSION_KEY}


def move(place: tuple[str, str], field: Any, row: Any, rows: Rows) -> None:
    """Update one column, look at what the log tells of it, and put everything back."""
    model, (table, column) = type(row), place
    before, after = model._default_manager.get(pk=row.pk), model._default_manager.get(pk=row.pk)
    new = {field.attname: another(field, before, rows), **ALONG.get(place, {})}
    for name, value in new.items():
        setattr(after, name, value)
    watched = column in WATCHED[table].columns
    with telling({told_of(before), told_of(after)} if watched else set(), f"{table}.{column}"):
        assert model._default_manager.filter(pk=row.pk).update(**new) == 1
    before.save()


def test_writing_what_is_there_already_tells_nothing(rows: Rows) -> None:
    for table, row in rows.watched.items():
        with telling(set(), table):
            type(row)._default_manager.get(pk=row.pk).save()


def test_the_guards_refuse_to_move_a_version_to_another_key(rows: Rows) -> None:
    version = rows.watched["keyvault_keyversion"]
    elsewhere = furnish().empty_key()
    with telling(set(), "refused"), pytest.raises(DatabaseError, match="version_immutable"):
        KeyVersion.objects.filter(pk=version.pk).update(key=elsewhere)


def test_jobs_are_told_when_the_first_opens_and_the_last_closes(rows: Rows) -> None:
    jobs = rows.watched["keyvault_openjobs"]
    for count, tells in ((3, False), (0, True), (-1, False), (0, False), (1, True), (2, False), (-2, True)):
        with telling({told_of(jobs)} if tells else set(), f"now {count}"):
            OpenJobs.objects.filter(pk=jobs.pk).update(open=count)


def test_rows_that_appear_and_go_are_told(rows: Rows) -> None:
    """Of these, somebody may remember that they are not there."""
    mine = furnish()
    key = mine.empty_key("staging")
    fresh = {
        "keyvault_consumertoken": ConsumerToken(
            consumer=rows.others[Consumer],
            environment=key.environment,
            digest=os.urandom(32),
            created_at=NOW,
            mac=b"",
        ),
        "keyvault_grant": Grant(
            consumer=rows.others[Consumer],
            service=mine.service,
            environment=key.environment,
            created_at=NOW,
            mac=b"",
        ),
        "keyvault_key": Key(
            service=mine.service, environment=rows.others[Environment], created_at=NOW, mac=b""
        ),
        "keyvault_keyversion": KeyVersion(key=key, number=1, created_at=NOW, mac=b""),
        "keyvault_openjobs": OpenJobs(
            version=rows.others[KeyVersion], consumer=rows.others[Consumer], instance="web-2", last_to_at=NOW
        ),
    }
    assert fresh.keys() == {table for table, watch in WATCHED.items() if watch.kind != "all"}
    for table, row in fresh.items():
        with telling({told_of(row)}, f"{table} appears"):
            type(row)._default_manager.bulk_create([row])
        with telling({told_of(row)}, f"{table} goes"):
            type(row)._default_manager.filter(pk=row.pk).delete()


def test_what_nobody_can_refer_to_yet_is_not_told(rows: Rows) -> None:
    with telling(set(), "rows that everything hangs on"):
        team = Team.objects.create(slug="nobody-yet", created_at=NOW)
        provider = Provider.objects.create(slug="nobody-yet", driver="manual", errors="flat", created_at=NOW)
        service = Service.objects.create(slug="nobody-yet", team=team, provider=provider, created_at=NOW)
        consumer = Consumer.objects.create(slug="nobody-yet", team=team, created_at=NOW)
        environment = Environment.objects.create(slug="nobody-yet", name="")
        for row in (environment, consumer, service, provider, team):
            row.delete()


def test_what_goes_with_its_parent_is_told_as_well(rows: Rows) -> None:
    consumer = furnish().consumer()
    grant = Grant.objects.create(
        consumer=consumer,
        service=rows.others[Service],
        environment=rows.others[Environment],
        created_at=NOW,
        mac=b"",
    )
    with telling({Noted("grant", grant.id, consumer.id)}, "the cascade"):
        consumer.delete()


def test_what_is_rolled_back_is_never_told(rows: Rows) -> None:
    token = rows.watched["keyvault_consumertoken"]
    with telling(set(), "a rolled back transaction"), transaction.atomic():
        ConsumerToken.objects.filter(pk=token.pk).update(hint="gone")
        transaction.set_rollback(True)
    grant = rows.watched["keyvault_grant"]
    with telling({told_of(grant)}, "a rolled back part of one"), transaction.atomic():
        with transaction.atomic():
            ConsumerToken.objects.filter(pk=token.pk).update(hint="gone")
            transaction.set_rollback(True)
        Grant.objects.filter(pk=grant.pk).update(verbs=["verify"])


def test_numbers_have_no_gaps_and_one_transaction_is_told_at_once(rows: Rows) -> None:
    """On PostgreSQL a transaction takes one number, however much it changes."""
    key, token = rows.watched["keyvault_key"], rows.watched["keyvault_consumertoken"]
    before = seq()
    with transaction.atomic():
        for weight in range(20, 60):
            Key.objects.filter(pk=key.pk).update(weight=weight)
        ConsumerToken.objects.filter(pk=token.pk).update(hint="new")
    numbers = set(Change.objects.filter(seq__gt=before).values_list("seq", flat=True))
    assert numbers == set(range(before + 1, seq() + 1))
    if connection.vendor == "postgresql":
        assert seq() == before + 1


def test_a_rotation_of_everything_is_told_by_the_services_too(rows: Rows) -> None:
    """A whole secret comes in through the services: each step of it moves the counter."""
    mine = furnish()
    before = seq()
    key = mine.key(secret=fresh_secret())
    told = set(Change.objects.filter(seq__gt=before).values_list("kind", "ref"))
    assert told == {("key", key.id)}


def test_every_watched_table_has_its_triggers_and_they_are_on(rows: Rows) -> None:
    """SQLite forgets the triggers of a table that a migration makes anew."""
    wanted = {
        f"{table}_noted_{event}"
        for table, watch in WATCHED.items()
        for event in ("update", *(() if watch.kind == "all" else ("insert", "delete")))
    } | {f"keyvault_quarantine_noted_{event}" for event in ("insert", "update", "delete")}
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%_noted_%'")
            assert {name for (name,) in cursor.fetchall()} == wanted
            return
        cursor.execute(
            "SELECT tgname, tgenabled, tgdeferrable, tginitdeferred FROM pg_trigger "
            "WHERE tgname LIKE '%_noted_%' AND NOT tgisinternal"
        )
        found = cursor.fetchall()
    # One trigger stands for rows that appear and go.
    assert {name for name, *_ in found} == {name for name in wanted if not name.endswith("_delete")}
    assert {tuple(state) for _, *state in found} == {("O", True, True)}
