"""PostgreSQL roles: what the running application may do, and what only the owner of the tables may.

The application's role can neither change nor delete what tells of the past, nor remove the triggers that
guard it: those belong to the owner, who migrates. A third role only reads, for audit_verify and reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.apps import apps
from django.db import connection
from psycopg import sql

from keyvault.models import AuditEvent, AuditHead, Delivery, SealMark

# Tables that are only added to, or only moved on; for all others the application may do everything with rows.
_LIMITED: Final = {
    AuditEvent._meta.db_table: "SELECT, INSERT",
    AuditHead._meta.db_table: "SELECT, INSERT, UPDATE",
    SealMark._meta.db_table: "SELECT, INSERT, UPDATE",
    Delivery._meta.db_table: "SELECT, INSERT, DELETE",  # what is too old is forgotten
    "django_migrations": "SELECT",
}


def grants(application: str, reader: str | None = None) -> Iterator[str]:
    """The statements that limit these roles, which exist; the owner runs them after each migration."""
    app = sql.Identifier(application)
    yield _text(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(app))
    yield _text(sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC, {}").format(app))
    for table in _tables():
        name, may = sql.Identifier(table), _LIMITED.get(table, "SELECT, INSERT, UPDATE, DELETE")
        yield _text(sql.SQL("REVOKE ALL ON {} FROM PUBLIC, {}").format(name, app))
        yield _text(sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(may), name, app))
    yield _text(sql.SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(app))
    yield _text(sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {}").format(app))
    if reader is not None:
        read = sql.Identifier(reader)
        yield _text(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(read))
        yield _text(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}").format(read))
        yield _text(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(read))


def _tables() -> list[str]:
    models = {
        model._meta.db_table for model in apps.get_models(include_auto_created=True) if model._meta.managed
    }
    with connection.cursor() as cursor:
        return sorted((models | {"django_migrations"}) & set(connection.introspection.table_names(cursor)))


def _text(statement: sql.Composed) -> str:
    return statement.as_string(connection.connection)
