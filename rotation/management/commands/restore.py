"""manage.py restore: put a backup back into a database that holds nothing yet."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from keyvault.crypto.archive import Archive, ArchiveError
from keyvault.crypto.errors import IntegrityError, KeyringError
from keyvault.crypto.sealed_file import SealedFileError, read_identity
from keyvault.keystore import forget_installation
from keyvault.services import keks, restores
from rotation.services import restoring


class Command(BaseCommand):
    help = (
        "Put a backup back into a new, migrated database: all of it or nothing. The keyring of the "
        "installation "
        "has to be there. Where anything happened after the backup, nothing is delivered until "
        "'keyturn restore_reconcile' has put it right."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--identity", type=Path, required=True, metavar="FILE", help="What opens it.")
        parser.add_argument(
            "--without-keks", action="store_true", help="Also where the keyring lacks keys that it needs."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        quarantined = False

        def then() -> None:
            nonlocal quarantined
            forget_installation()
            keks.check_canaries(now=clock.now())
            quarantined = restoring.put_back(clock.now())

        try:
            identity = read_identity(options["identity"].read_text(encoding="utf-8"))
            with options["file"].open("rb") as stream:
                archive = Archive(stream)
                rows = restores.restore(archive, identity, without=options["without_keks"], then=then)
        except (ArchiveError, SealedFileError, KeyringError, restores.CannotRestore) as error:
            raise CommandError(str(error)) from error
        except IntegrityError as error:
            raise CommandError(
                "The keyring here is not the one of this backup: nothing was put back."
            ) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error
        self.stdout.write(f"{rows} rows of {archive.manifest['made_at']} are back.")
        if quarantined:
            self.stdout.write(
                "Something may have ended since: nothing is delivered, and no rotation goes on.\n"
                f"Next: {restoring.NEXT}"
            )
        else:
            self.stdout.write("Nothing was recorded after it.\nNext: keyturn serve")
