"""The table of deliveries takes no rows for a while."""

from __future__ import annotations

from django.db import connection, transaction


def forbid_deliveries() -> None:
    """The table takes no more rows, as with a full disk or a lost partition."""
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "CREATE TRIGGER no_delivery BEFORE INSERT ON keyvault_delivery "
                "BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
            return
        cursor.execute(
            "CREATE FUNCTION no_delivery() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'full'; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER no_delivery BEFORE INSERT ON keyvault_delivery EXECUTE FUNCTION no_delivery()"
        )


def allow_deliveries() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("DROP TRIGGER no_delivery")
            return
        cursor.execute("DROP TRIGGER no_delivery ON keyvault_delivery")
        cursor.execute("DROP FUNCTION no_delivery()")
