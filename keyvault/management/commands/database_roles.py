"""manage.py database_roles: what the roles of PostgreSQL may do, as SQL."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from keyvault.services.database_roles import grants


class Command(BaseCommand):
    help = (
        "Limit the role that the running application uses: it can add to the audit trail and to deliveries, "
        "and change neither. Run it as the owner of the tables after every migration. Prints the SQL; "
        "--apply runs it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("application", help="The role of web and worker in DATABASE_URL. It must exist.")
        parser.add_argument("--reader", help="A role that only reads, for audit_verify and reports.")
        parser.add_argument("--apply", action="store_true", help="Run the statements, all or none.")

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "postgresql":
            raise CommandError("SQLite has no roles: whoever can write its file can do everything.")
        statements = list(grants(options["application"], options["reader"]))
        if options["apply"]:
            with transaction.atomic(), connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
            self.stdout.write(f"{len(statements)} statements were run.")
            return
        self.stdout.write("\n".join(f"{statement};" for statement in statements))
