"""The database: that a commit is durable, and that the audit cannot be rewritten from here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from django.core.checks import CheckMessage, Error, Warning
from django.db import OperationalError, ProgrammingError, connection

from keyvault.models import AuditEvent
from keyvault.project import health

Check = Callable[..., list[CheckMessage]]
_FULL: Final = 2
_REWRITING: Final = ("UPDATE", "DELETE", "TRUNCATE")


def _with_database(check: Callable[[], list[CheckMessage]]) -> Check:
    """Only with ``--database default``, and only once its tables are there."""

    def run(app_configs: object, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
        if not databases:
            return []
        try:
            return check()
        except (OperationalError, ProgrammingError):
            return []  # before the first migration there is nothing to check

    # Not with functools.wraps: Django looks at the parameters.
    run.__name__, run.__doc__ = check.__name__, check.__doc__
    return run


def _asked(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    return row[0] if row else None


@_with_database
def kek_canaries_open() -> list[CheckMessage]:
    """What was sealed under each KEK opens: the keyring is that of this installation."""
    try:
        health.key_service()
    except health.CheckFailed as error:
        return [
            Error(
                str(error),
                hint="Put back the keyring that belongs to this database; see docs/runbook.md.",
                id="keyvault.E022",
            )
        ]
    return []


@_with_database
def commits_are_durable() -> list[CheckMessage]:
    if connection.vendor == "sqlite":
        journal, synchronous = _asked("PRAGMA journal_mode"), _asked("PRAGMA synchronous")
        if str(journal).lower() == "wal" and synchronous >= _FULL:
            return []
        return [
            Error(
                f"SQLite may lose what it has confirmed (journal {journal}, synchronous {synchronous}).",
                hint="Open it with journal_mode=WAL and synchronous=FULL, as databases.py does.",
                id="keyvault.E012",
            )
        ]
    if _asked("SHOW synchronous_commit") != "off":
        return []
    return [
        Error(
            "PostgreSQL confirms what a power cut would take back: a delivery without its record.",
            hint="Set synchronous_commit = on, for the server and for the role.",
            id="keyvault.E013",
        )
    ]


@_with_database
def audit_is_append_only() -> list[CheckMessage]:
    """Whether the role of this program may rewrite the audit, by right or as its owner."""
    if connection.vendor == "sqlite":
        return []
    table = AuditEvent._meta.db_table
    # Only names of ours in the text.
    if _asked("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        why = "it is a superuser"
    elif _asked(f"SELECT pg_has_role(relowner, 'MEMBER') FROM pg_class WHERE oid = '{table}'::regclass"):  # noqa: S608
        return [
            Warning(
                "The role of this program owns the audit: it could drop the triggers that guard it.",
                hint="Let another role own the tables, and limit this one: keyturn database_roles.",
                id="keyvault.W014",
            )
        ]
    elif _asked(f"SELECT has_table_privilege('{table}', '{', '.join(_REWRITING)}')"):
        why = f"it was granted one of {', '.join(_REWRITING)}"
    else:
        return []
    return [
        Error(
            f"The role of this program may rewrite the audit: {why}.",
            hint="Connect as a role that is no superuser, limited by: keyturn database_roles.",
            id="keyvault.E014",
        )
    ]
