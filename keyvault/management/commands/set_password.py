"""``manage.py set_password USERNAME``: another password for a person, read from standard input."""

from __future__ import annotations

import getpass
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyvault import clock
from keyvault.exceptions import KeyturnError
from keyvault.services import people


class Command(BaseCommand):
    help = "Set the password of an existing person. It is read from standard input, never from an argument."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        username: str = options["username"]
        if sys.stdin.isatty():
            password = getpass.getpass(f"New password for {username}: ")
        else:
            password = sys.stdin.readline().rstrip("\r\n")
        try:
            people.set_password(username, password, now=clock.now())
        except KeyturnError as error:
            raise CommandError(" ".join(text for texts in error.fields.values() for text in texts)) from error
        self.stderr.write(f"The password of {username} is set.")
