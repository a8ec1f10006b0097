"""manage.py keyring: the keyring in escrow, and back from it."""

from __future__ import annotations

import io
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from keyvault import audit, clock
from keyvault.actors import SYSTEM
from keyvault.crypto.archive import creating
from keyvault.crypto.errors import KeyringError
from keyvault.crypto.keyring_document import parse_document
from keyvault.crypto.keyring_file import create_private, read_private
from keyvault.crypto.sealed_file import MAGIC, SealedFileError, Sealer, Unsealer, read_identity

NAME = "keyring"  # of the stream in the sealed file


class Command(BaseCommand):
    help = (
        "'keyring escrow FILE' seals the keyring file for recipients (keyturn backup keygen) whose "
        "identities are "
        "kept elsewhere; 'keyring recover FILE' puts it back where there is none. Escrow it anew after every "
        "change of its KEKs."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=("escrow", "recover"))
        parser.add_argument("file", type=Path)
        parser.add_argument("--recipient", action="append", default=[], help="escrow: may be repeated.")
        parser.add_argument(
            "--together",
            action="store_true",
            help="escrow: only all of the recipients together can open it; without, each one can.",
        )
        parser.add_argument(
            "--identity",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="recover: may be repeated.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["what"] == "escrow":
                self._escrow(options["file"], options["recipient"], together=options["together"])
            else:
                self._recover(options["file"], options["identity"])
        except (KeyringError, SealedFileError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error

    def _escrow(self, file: Path, recipients: Sequence[str], *, together: bool) -> None:
        text = settings.KEYTURN_KEYRING_JSON or read_private(Path(settings.KEYTURN_KEYRING))
        kids = sorted(kid for held in parse_document(text).environments.values() for kid in held.keks)
        sealed = text.encode()
        for group in [[one] for one in recipients] if together else [list(recipients)]:
            sealer = Sealer(group)
            sealed = sealer.header + b"".join(sealer.seal(NAME, [sealed]))
        with creating(file.absolute()) as stream:
            stream.write(sealed)
            with transaction.atomic():
                audit.record(
                    "keyring:escrowed", actor=SYSTEM, now=clock.now(), kids=kids, recipients=list(recipients)
                )
        self.stdout.write(
            f"{file} holds {', '.join(kids)}. Keep it apart from the backups and the identities."
        )

    def _recover(self, file: Path, identities: Sequence[Path]) -> None:
        held = [read_identity(path.read_text(encoding="utf-8")) for path in identities]
        data = file.read_bytes()
        if not data.startswith(MAGIC):
            raise CommandError(f"{file} is no keyring in escrow.")
        while data.startswith(MAGIC):
            data = _open(data, held)
        document = parse_document(data.decode())
        target = Path(settings.KEYTURN_KEYRING)
        create_private(target, data.decode())
        kids = sorted(kid for of in document.environments.values() for kid in of.keks)
        self.stdout.write(f"{target} holds {', '.join(kids)}. Next: keyturn restore, or keyturn serve.")


def _open(data: bytes, identities: Sequence[X25519PrivateKey]) -> bytes:
    for identity in identities:
        stream = io.BytesIO(data)
        try:
            unsealer = Unsealer(stream, identity)
        except SealedFileError:
            continue  # it takes another one of them
        return b"".join(unsealer.open(NAME, stream, len(data) - stream.tell()))
    raise SealedFileError(
        "None of these identities opens it. One that needs several takes --identity for each."
    )
