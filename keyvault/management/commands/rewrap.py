"""manage.py rewrap: move every data key of an environment under its primary KEK."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.keystore import keys
from keyvault.services import rewrap
from keyvault.services.rewrap import Rewrapped


class Command(BaseCommand):
    help = (
        "Wrap every data key under the primary KEK of its environment. Keys go on being delivered meanwhile, "
        "and the command may be interrupted anywhere and run again. Exit code 1: some rows do not open."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--environment",
            action="append",
            metavar="ENV",
            help="dev, staging, prod, or system (credentials of providers, kept replies); may be repeated. "
            "Default: all that this process holds.",
        )
        parser.add_argument(
            "--add",
            action="store_true",
            help="Add a fresh KEK to the keyring file and make it the primary first. Only where all "
            "processes read this one file; after an interruption go on without --add.",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = [self._one(name, options) for name in self._environments(options["environment"])]
        except (KeyringError, KeyServiceUnavailable) as error:
            raise CommandError(str(error)) from error
        if options["as_json"]:
            self.stdout.write(json.dumps([asdict(result) for result in done], indent=2))
        broken = sum(len(result.broken) for result in done)
        if broken:
            raise CommandError(f"{broken} row(s) could not be rewrapped. Keep the older KEKs.")

    def _environments(self, wanted: Sequence[str] | None) -> list[str]:
        held = keys().keks.describe()
        unknown = sorted(set(wanted or ()) - set(held))
        if unknown:
            raise CommandError(
                f"This process holds no KEK of {', '.join(unknown)}. It holds {', '.join(held)}."
            )
        return list(dict.fromkeys(wanted)) if wanted else list(held)

    def _one(self, environment: str, options: dict[str, Any]) -> Rewrapped:
        if options["add"]:
            kid = rewrap.add_kek(SYSTEM, environment, now=clock.now())
            self._say(f"{environment}: added {kid} and made it the primary", options)
        result = rewrap.rewrap_environment(SYSTEM, environment, now=clock.now())
        self._say(f"{environment}: {result.rows} row(s) moved to {result.kid}", options)
        for row in result.broken:
            why = "does not open" if row.why == "integrity" else f"needs {row.kid}, which is not held here"
            self.stderr.write(f"{environment}: {row.table} {row.id} {why}")
        return result

    def _say(self, line: str, options: dict[str, Any]) -> None:
        if not options["as_json"]:
            self.stdout.write(line)
