"""``check --deploy --database default``: what only the database itself can tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection

from keyvault import clock
from keyvault.models import AuditEvent, KekCanary
from keyvault.project.checks import IN_DATABASE
from keyvault.services import keks

pytestmark = pytest.mark.django_db
TABLE = AuditEvent._meta.db_table


@pytest.fixture
def sound(data_dir: object) -> None:
    """As a migration and a first start leave it, and durable: the servers of tests are not."""
    keks.check_canaries(now=clock.now())
    if connection.vendor == "postgresql":
        run("SET LOCAL synchronous_commit = on")


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def told() -> set[str]:
    found = [message for check in IN_DATABASE for message in check(None, databases=["default"])]
    assert all(message.hint for message in found)
    return {str(message.id).removeprefix("keyvault.") for message in found}


@pytest.fixture
def role(sound: None) -> Iterator[None]:
    """A role that may do with the audit what the program needs."""
    run("CREATE ROLE check_app")
    run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO check_app")
    run(f"GRANT INSERT ON {TABLE} TO check_app")
    run("SET LOCAL ROLE check_app")
    yield
    run("RESET ROLE")


@pytest.mark.once
def test_sqlite_as_we_open_it(sound: None) -> None:
    assert told() == set()
    found = run_checks(include_deployment_checks=True, databases=["default"])
    assert not {message.id for message in found} & {"keyvault.E012", "keyvault.E022"}
    KekCanary.objects.update(ciphertext=b"")
    found = run_checks(include_deployment_checks=True, databases=["default"])
    assert {message.id for message in found} & {"keyvault.E012", "keyvault.E022"} == {"keyvault.E022"}


@pytest.mark.once
def test_without_the_option_no_database_is_asked(sound: None) -> None:
    KekCanary.objects.update(ciphertext=b"")
    assert [message for check in IN_DATABASE for message in check(None)] == []


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_sqlite_that_may_lose_what_it_confirmed(data_dir: object) -> None:
    run("PRAGMA synchronous=NORMAL")
    try:
        assert told() == {"E012"}
    finally:
        run("PRAGMA synchronous=FULL")


@pytest.mark.postgresql
def test_a_role_that_may_read_and_append(role: None) -> None:
    assert told() == set()


@pytest.mark.postgresql
@pytest.mark.parametrize("right", ["UPDATE", "DELETE", "TRUNCATE"])
def test_a_role_that_may_rewrite_the_audit(right: str, role: None) -> None:
    run("RESET ROLE")
    run(f"GRANT {right} ON {TABLE} TO check_app")
    run("SET LOCAL ROLE check_app")
    assert told() == {"E014"}


@pytest.mark.postgresql
def test_a_role_that_owns_the_audit(role: None) -> None:
    run("RESET ROLE")
    run(f"ALTER TABLE {TABLE} OWNER TO check_app")
    run("SET LOCAL ROLE check_app")
    assert told() == {"W014"}


@pytest.mark.postgresql
def test_a_superuser(sound: None) -> None:
    assert told() == {"E014"}


@pytest.mark.postgresql
def test_commits_that_a_power_cut_takes_back(role: None) -> None:
    run("SET LOCAL synchronous_commit = off")
    assert told() == {"E013"}


@pytest.mark.once
def test_a_keyring_of_another_installation(sound: None, settings: Any) -> None:
    row = KekCanary.objects.filter(environment="prod").get()
    row.ciphertext = bytes(row.ciphertext)[:-1] + b"\0"
    row.save()
    assert told() == {"E022"}
