"""manage.py audit_verify: prove the audit trail. Exits with 0 intact, 1 tampered, 2 unanchored, 3 unknown."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from keyvault import clock
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.models import AuditHead
from keyvault.services import verifying
from keyvault.services.checkpoints import BrokenCheckpoints
from keyvault.services.verifying import Finding, Proof
from rotation.services import replaying
from rotation.services.anchoring import own_directory

INTACT: Final = 0
TAMPERED: Final = 1
UNANCHORED: Final = 2
UNKNOWN: Final = 3

_ASK: Final = "Is the scheduler running?"


class Command(BaseCommand):
    help = (
        "Prove that the audit trail is as it was written: every event, the deliveries sealed into it, the "
        "checkpoints outside the database, and that keys and rotations stand where their events leave them. "
        "Exit codes: 0 intact; 1 tampered, the first event that is not as it was is named; 2 intact as far "
        "as can be told, but the end of the trail is in no checkpoint; 3 it cannot be verified here."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--checkpoints",
            action="append",
            type=Path,
            metavar="PLACE",
            help="A folder of checkpoints, or a file of them, such as the copy that is out of reach of the "
            "database's administrators; may be repeated. Default: KEYTURN_DATA/checkpoints, and every folder "
            "in KEYTURN_CHECKPOINTS_TO.",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        try:
            places = options["checkpoints"] or list(_places())
            missing = [place for place in options["checkpoints"] or () if not place.exists()]
            if missing:
                raise _Unknown(f"There are no checkpoints at {missing[0]}.")
            proof = verifying.prove(places, clock.now())
            if proof.finding is None:
                proof.finding = _replayed(proof)
            code, words = _verdict(proof)
        except _Unknown as error:
            proof, code, words = Proof(), UNKNOWN, str(error)
        except (KeyringError, KeyServiceUnavailable, BrokenCheckpoints) as error:
            proof, code, words = Proof(), UNKNOWN, str(error)
        except DatabaseError as error:
            proof, code, words = Proof(), UNKNOWN, f"The database does not answer ({type(error).__name__})."
        self._tell(proof, code, words, time.monotonic() - began, as_json=options["as_json"])
        sys.exit(code)

    def _tell(self, proof: Proof, code: int, words: str, seconds: float, *, as_json: bool) -> None:
        verdict = ("intact", "tampered", "unanchored", "unknown")[code]
        rate = round(proof.events / seconds) if seconds else 0
        if as_json:
            told = {"verdict": verdict, "message": words, **asdict(proof), "events_per_second": rate}
            self.stdout.write(json.dumps(told, indent=2, default=str))
            return
        self.stdout.write(f"{verdict}: {words}")
        self.stdout.write(
            f"{proof.events} events, {proof.seals} seals of {proof.deliveries} deliveries "
            f"({proof.forgotten} forgotten since), {proof.checkpoints} checkpoints; "
            f"{seconds:.1f} s, {rate} events a second"
        )


class _Unknown(Exception):
    """It cannot be verified; the text says why."""


def _places() -> Iterator[Path]:
    if own_directory().is_dir():
        yield own_directory()
    for place in settings.KEYTURN_CHECKPOINTS_TO:
        parts = urlsplit(place)
        if parts.scheme == "file" and Path(parts.path).is_dir():
            yield Path(parts.path)


def _replayed(proof: Proof) -> Finding | None:
    """The first thing that stands otherwise than its events tell; None for nothing."""
    found = next(replaying.differences(until=proof.events), None)
    if found is None or AuditHead.objects.get().sequence != proof.events:
        return None  # something was changed while we looked, which the next look will understand
    return Finding(found)


def _verdict(proof: Proof) -> tuple[int, str]:
    if proof.finding is not None:
        return TAMPERED, proof.finding.what
    if proof.unanchored:
        since = f"{proof.unanchored_since:%Y-%m-%d %H:%M:%S} UTC"
        return UNANCHORED, f"{proof.unanchored} events since {since} are in no checkpoint. {_ASK}"
    if proof.unsealed:
        return UNANCHORED, f"{proof.unsealed} deliveries are in no seal. {_ASK}"
    words = "every event, delivery and checkpoint is as it was written."
    if proof.given_up:
        words += f" {proof.given_up} events were lost in a restore that was confirmed."
    return INTACT, words
