"""manage.py tick: one beat of the scheduler, now."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from rotation.services import notifying, restoring, ticking
from rotation.services.performing import Beat, beat_and_perform
from rotation.tasks import ring, ring_channel


class Command(BaseCommand):
    help = (
        "One beat of the scheduler: start what is due, move what can move, ring for the workers. "
        "With --perform nothing else needs to run: call it from cron every minute."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--perform", action="store_true", help="Also carry out every due operation, here and now."
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        restoring.watch(clock.now())
        if options["perform"]:
            beat = beat_and_perform(clock.now)
        else:
            beat = Beat(ticking.tick(clock.now(), ring=ring))
            notifying.tick(clock.now(), ring=ring_channel)
        if options["as_json"]:
            self.stdout.write(json.dumps(asdict(beat)))
        else:
            self.stdout.write(f"{beat.rotations} rotation(s) looked at")
            if options["perform"]:
                self.stdout.write(f"{beat.performed} operation(s) performed, {beat.folded} deliveries folded")
        if beat.failed:
            raise CommandError(f"{beat.failed} operation(s) raised an error; the log says which.")
