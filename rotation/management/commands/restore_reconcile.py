"""manage.py restore_reconcile: put a restored database right, and deliver again."""

from __future__ import annotations

import getpass
import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from keyvault.services import quarantine
from rotation.services import reconciling


class Command(BaseCommand):
    help = (
        "After a restore: end again what had ended since the backup, ask the providers about the keys, and "
        "deliver "
        "what is sure. Keys that got another value meanwhile stay held until --supply or --keep. Exit code "
        "1: "
        "some are held."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--without-journal",
            action="store_true",
            help="Although KEYTURN_DATA/journal.jsonl does not reach back to the backup.",
        )
        parser.add_argument(
            "--supply",
            metavar="SERVICE/ENV",
            help="Read the value that this key has now from standard input.",
        )
        parser.add_argument(
            "--keep", metavar="SERVICE/ENV", help="The value that stands here is right: deliver it again."
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["supply"]:
                key = _key(options["supply"])
                version = reconciling.supply(SYSTEM, key, _secret(options["supply"]), now=clock.now())
                self.stdout.write(f"{key}: version {version.number} is delivered.")
            elif options["keep"]:
                key = _key(options["keep"])
                reconciling.keep(SYSTEM, key, now=clock.now())
                self.stdout.write(f"{key}: delivered again.")
            else:
                self._reconcile(options)
        except KeyturnError as error:
            wrong = [text for texts in error.fields.values() for text in texts]
            raise CommandError(" ".join(wrong) or error.message) from error
        left = [f"{row.key}: {row.reason}" for row in quarantine.held_keys()]
        if left:
            raise CommandError(
                "Held until you say what they are (--supply SERVICE/ENV, or --keep SERVICE/ENV):\n  "
                + "\n  ".join(left)
            )

    def _reconcile(self, options: dict[str, Any]) -> None:
        done = reconciling.reconcile(SYSTEM, now=clock.now(), without_journal=options["without_journal"])
        if options["as_json"]:
            self.stdout.write(json.dumps(asdict(done), indent=1))
            return
        for line in done.ended:
            self.stdout.write(f"ended again: {line}")
        for line in done.look:
            self.stdout.write(f"look at: {line}")
        if done.until:
            self.stdout.write(f"The journal ends at {done.until}; what ended later is not known here.")
        self.stdout.write(
            "Everything that is not held is delivered. Resume or abort the rotations that wait."
        )


def _key(name: str) -> Key:
    service, _, environment = name.partition("/")
    key = Key.objects.named(service, environment).first()
    if key is None:
        raise CommandError(f"There is no key {name}.")
    return key


def _secret(name: str) -> Secret:
    if sys.stdin.isatty():
        return Secret(getpass.getpass(f"The value of {name}: "))
    return Secret(sys.stdin.readline().rstrip("\r\n"))
