"""manage.py audit_verify: prove the audit trail. Exits with 0 intact, 1 tampered, 2 unanchored, 3 unknown."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand

from keyvault import clock
from rotation.services.proving import Outcome, Verdict, own_places, prove

EXIT_CODES: Final[Mapping[Verdict, int]] = {
    Verdict.INTACT: 0,
    Verdict.TAMPERED: 1,
    Verdict.UNANCHORED: 2,
    Verdict.UNKNOWN: 3,
}


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
        outcome = prove(options["checkpoints"] or own_places(), clock.now())
        self._tell(outcome, time.monotonic() - began, as_json=options["as_json"])
        sys.exit(EXIT_CODES[outcome.verdict])

    def _tell(self, outcome: Outcome, seconds: float, *, as_json: bool) -> None:
        proof, verdict = outcome.proof, outcome.verdict.value
        rate = round(proof.events / seconds) if seconds else 0
        if as_json:
            told = {"verdict": verdict, "message": outcome.words, **asdict(proof), "events_per_second": rate}
            self.stdout.write(json.dumps(told, indent=2, default=str))
            return
        self.stdout.write(f"{verdict}: {outcome.words}")
        self.stdout.write(
            f"{proof.events} events, {proof.seals} seals of {proof.deliveries} deliveries "
            f"({proof.forgotten} forgotten since), {proof.checkpoints} checkpoints; "
            f"{seconds:.1f} s, {rate} events a second"
        )
