"""manage.py kek: the same as ``keyturn kek``."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from typing import Any

import click
from django.core.management.base import BaseCommand

from keyvault.project import kek_cli


class Command(BaseCommand):
    help = "Key-encryption keys: status, add, promote, rewrap, verify, retire. The same as `keyturn kek`."
    words: click.Command = kek_cli.kek

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("words", nargs=REMAINDER)  # for call_command

    def run_from_argv(self, argv: Sequence[str]) -> None:
        # click reads the words, so that there is one description of them.
        self.words.main(args=list(argv[2:]), prog_name=f"{argv[0]} {argv[1]}")

    def handle(self, *args: Any, **options: Any) -> None:
        self.words.main(args=list(options["words"]), prog_name=self.words.name, standalone_mode=False)
