"""manage.py describe_rotation: the decision table of the engine, read from its rules."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from rotation import describe


class Command(BaseCommand):
    help = "Print the decision table of the engine as Markdown. --write puts it into docs/rotation.md."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true", help="Change the document in the source tree.")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["write"]:
            self.stdout.write(describe.markdown())
            return
        document = Path(settings.BASE_DIR) / "docs" / "rotation.md"
        try:
            text = describe.replaced(document.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        document.write_text(text, encoding="utf-8")
