"""manage.py backup: everything in the database as one sealed file with a signed manifest."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.archive import Archive, ArchiveError, creating
from keyvault.crypto.errors import KeyringError
from keyvault.crypto.sealed_file import SealedFileError, new_identity
from keyvault.services import backups


class Command(BaseCommand):
    help = (
        "Write a backup of the whole database, sealed for recipients whose identity is kept elsewhere. The "
        "keyring is never in it. 'backup keygen FILE' makes an identity; --verify FILE checks a backup "
        "without a database."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", nargs="?", default="make", choices=("make", "keygen"))
        parser.add_argument("file", nargs="?", type=Path, help="keygen: where the identity is written.")
        parser.add_argument("--to", type=Path, metavar="DIR", help="Default: KEYTURN_DATA/backups.")
        parser.add_argument(
            "--recipient",
            action="append",
            default=[],
            help="Whom it is sealed for; may be repeated. Default: KEYTURN_BACKUP_RECIPIENTS.",
        )
        parser.add_argument(
            "--keep",
            type=int,
            metavar="DAYS",
            help="How long it may be restored. Default: KEYTURN_BACKUPS_KEPT.",
        )
        parser.add_argument("--verify", type=Path, metavar="FILE", help="Check this backup instead.")
        parser.add_argument(
            "--jwks",
            type=Path,
            metavar="FILE",
            help="The installation's key set. Default: that of the keyring here.",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the manifest.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["verify"] is not None:
                self._verify(options["verify"], options["jwks"], options["as_json"])
            elif options["what"] == "keygen":
                self._keygen(options["file"])
            else:
                self._make(options)
        except (ArchiveError, SealedFileError, KeyringError, backups.CannotBackUp) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error

    def _make(self, options: dict[str, Any]) -> None:
        recipients = options["recipient"] or settings.KEYTURN_BACKUP_RECIPIENTS
        if not recipients:
            raise CommandError(
                "Nobody could open it: make an identity (keyturn backup keygen FILE), keep that file "
                "elsewhere, "
                "and set KEYTURN_BACKUP_RECIPIENTS or --recipient."
            )
        days = settings.KEYTURN_BACKUPS_KEPT if options["keep"] is None else options["keep"]
        if days < 1:
            raise CommandError("--keep takes a number of days, at least 1.")
        folder = options["to"] or Path(settings.KEYTURN_DATA) / "backups"
        made = backups.make(SYSTEM, folder, recipients, keep=timedelta(days=days), now=clock.now())
        if options["as_json"]:
            self.stdout.write(json.dumps({"file": str(made.path), **made.manifest}, indent=1))
            return
        self.stdout.write(f"{made.path}: {_summary(made.manifest)}")

    def _verify(self, file: Path, jwks: Path | None, as_json: bool) -> None:
        with file.open("rb") as stream:
            archive = Archive(stream)
            kid = archive.check(backups.key_set() if jwks is None else _key_set(jwks))
        if as_json:
            self.stdout.write(json.dumps(archive.manifest, indent=1))
            return
        self.stdout.write(f"whole and genuine, signed by {kid}: {_summary(archive.manifest)}")

    def _keygen(self, file: Path | None) -> None:
        if file is None:
            raise CommandError("Say where the identity is to be written: keyturn backup keygen FILE")
        identity, recipient = new_identity()
        with creating(file.absolute()) as stream:
            stream.write(f"# recipient: {recipient}\n{identity.expose()}\n".encode())
        self.stderr.write(f"The identity is in {file}. Keep it away from this host: it opens every backup.")
        self.stdout.write(recipient)


def _summary(manifest: dict[str, Any] | Any) -> str:
    rows = sum(part["rows"] for part in manifest["parts"])
    kids = sorted(kid for of in manifest["keks"].values() for kid in of)
    return (
        f"{rows} rows in {len(manifest['parts'])} tables of {manifest['installation']} at "
        f"{manifest['made_at']}, "
        f"audit up to {manifest['audit']['sequence']}, KEKs {', '.join(kids) or 'none'}"
    )


def _key_set(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CommandError(f"{file} is no key set.")
    return found
