"""The role of the running application can do its work, and cannot change what tells of the past."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction

from keyvault import tasks
from keyvault.project.checks.database import audit_is_append_only
from keyvault.services import verifying
from rotation.services import ticking
from tests.integration.furniture import NOW, furnish
from tests.integration.records import traffic

# Roles belong to the whole server, which all processes of the run share.
APPLICATION = f"keyturn_app_{os.getpid()}"
READER = f"keyturn_reader_{os.getpid()}"


@pytest.fixture
def roles(transactional_db: None) -> Iterator[None]:
    with connection.cursor() as cursor:
        for role in (APPLICATION, READER):
            cursor.execute(f"CREATE ROLE {role}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            for role in (APPLICATION, READER):
                cursor.execute(f"DROP OWNED BY {role}")
                cursor.execute(f"DROP ROLE {role}")


@contextmanager
def as_role(role: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")


def complaints() -> list[str | None]:
    """What `check --deploy` says of the role of this connection."""
    return [found.id for found in audit_is_append_only(None, databases=["default"])]


REFUSED = [
    "UPDATE keyvault_auditevent SET reason = 'x'",
    "DELETE FROM keyvault_auditevent",
    "TRUNCATE keyvault_auditevent",
    "DELETE FROM keyvault_audithead",
    "TRUNCATE keyvault_audithead",
    "UPDATE keyvault_delivery SET status = 304",
    "TRUNCATE keyvault_delivery",
    "ALTER TABLE keyvault_auditevent DISABLE TRIGGER ALL",
    "DROP TRIGGER audit_kept ON keyvault_auditevent",
    "DROP TABLE keyvault_auditevent",
    "CREATE OR REPLACE FUNCTION keyturn_audit_guard() RETURNS trigger LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE mine (id int)",
    "SET session_replication_role = replica",
    "INSERT INTO django_migrations (app, name, applied) VALUES ('keyvault', 'x', now())",
]


@pytest.mark.postgresql
def test_the_application_can_work_and_not_change_the_past(roles: None) -> None:
    furniture = furnish()
    call_command("database_roles", APPLICATION, "--reader", READER, "--apply", stdout=StringIO())
    assert complaints() == ["keyvault.E014"]  # here it is a superuser
    with as_role(APPLICATION):
        assert complaints() == []
        reader = traffic(furniture)
        reader.deliver(NOW)
        reader.verify(NOW)
        reader.report()
        tasks.roll_up()
        tasks.tidy()
        ticking.tick(NOW + timedelta(days=400), ring=lambda operation: None)
        for statement in REFUSED:
            with pytest.raises(ProgrammingError), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)
        assert verifying.prove((), NOW).finding is None
    with as_role(READER):
        assert verifying.prove((), NOW).finding is None
        for statement in ("DELETE FROM keyvault_delivery", "UPDATE keyvault_key SET weight = 1"):
            with pytest.raises(ProgrammingError), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)


@pytest.mark.postgresql
def test_the_statements_can_be_read_first(roles: None) -> None:
    out = StringIO()
    call_command("database_roles", APPLICATION, stdout=out)
    assert f'GRANT SELECT, INSERT ON "keyvault_auditevent" TO "{APPLICATION}";' in out.getvalue()
    with (
        as_role(APPLICATION),
        pytest.raises(ProgrammingError),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1 FROM keyvault_key")  # nothing was run


@pytest.mark.once
def test_sqlite_has_no_roles(db: None) -> None:
    with pytest.raises(CommandError, match="SQLite has no roles"):
        call_command("database_roles", APPLICATION)
