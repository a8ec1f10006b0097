"""manage.py import_keys: bring the keys that exist elsewhere into custody, all or nothing."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from rotation.management.import_file import FileRefused, read_rows
from rotation.management.naming import actor_named
from rotation.services.bulk import ImportRefused, Problem, import_keys

SHOWN = 100


class Command(BaseCommand):
    help = (
        "Import keys from a file that only you may read: CSV with the columns service, environment, secret "
        "and, if wanted, policy and provider_key_id; or a JSON list of objects with these members. Services "
        "must exist; keys are created. Either every row is imported or none, and each refusal names its row. "
        "On SQLite nothing else can be written while it runs: there, split a file of thousands of rows."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="at most 10,000 rows")
        parser.add_argument(
            "--as", dest="username", metavar="USERNAME", help="Act with this person's rights."
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        as_json: bool = options["as_json"]
        actor = actor_named(options["username"])
        try:
            imported = import_keys(actor, read_rows(options["file"]), now=clock.now())
        except ImportRefused as refused:
            self._show(refused.problems, as_json=as_json)
            raise CommandError(f"Nothing was imported: {len(refused.problems)} problem(s).") from None
        except FileRefused as error:
            raise CommandError(f"Nothing was imported: {error}") from None
        except (IntegrityError, KeyringError, KeyServiceUnavailable) as error:
            raise CommandError(f"Nothing was imported: {error}") from error
        if as_json:
            self.stdout.write(json.dumps({"imported": imported, "problems": []}))
        else:
            self.stdout.write(
                f"{imported} key(s) imported. Remove {options['file']} now: it holds their secrets."
            )

    def _show(self, problems: Sequence[Problem], *, as_json: bool) -> None:
        if as_json:
            found = [{"row": problem.row, "message": problem.message} for problem in problems]
            self.stdout.write(json.dumps({"imported": 0, "problems": found}))
            return
        for problem in problems[:SHOWN]:
            self.stderr.write(f"row {problem.row}: {problem.message}")
        if len(problems) > SHOWN:
            self.stderr.write(f"and {len(problems) - SHOWN} more")
