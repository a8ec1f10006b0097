"""``migrate`` as Django has it, and a migration is recorded in the transaction that makes it.

Django records after the commit where statements were deferred to its end, and always when it goes back. A
process that is killed between the two leaves tables that no record tells of: every later start ends there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.commands import migrate
from django.db import transaction
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState


class Executor(MigrationExecutor):
    def apply_migration(
        self, state: ProjectState, migration: Migration, fake: bool = False, fake_initial: bool = False
    ) -> ProjectState:
        with self._whole(migration):
            return super().apply_migration(state, migration, fake=fake, fake_initial=fake_initial)

    def unapply_migration(
        self, state: ProjectState, migration: Migration, fake: bool = False
    ) -> ProjectState:
        with self._whole(migration):
            return super().unapply_migration(state, migration, fake=fake)

    @contextmanager
    def _whole(self, migration: Migration) -> Iterator[None]:
        if not migration.atomic:
            yield
            return
        # SQLite remakes tables only where foreign keys were let go before the transaction began.
        with self.connection.constraint_checks_disabled(), transaction.atomic(self.connection.alias):
            yield


# Django's command offers no other way to give it an executor.
migrate.MigrationExecutor = Executor  # type: ignore[attr-defined]


class Command(migrate.Command):
    pass
