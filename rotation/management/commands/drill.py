"""manage.py drill: rehearse a rotation and a rollback, and print what was proved."""

from __future__ import annotations

import json
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder

from keyvault import clock
from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from rotation.management.naming import actor_named, refusal
from rotation.management.simulated import simulated_key
from rotation.models import Rotation, RotationPolicy
from rotation.services import drill
from rotation.services.evidence import evidence_file, evidence_name, evidence_of

NOT_PROVED = 1
NEEDS_A_PERSON = 2


class Command(BaseCommand):
    help = (
        "Rehearse in a lower environment: replace a key, then start again and roll back on purpose, then ask "
        "the provider about both keys. Writes the evidence of both rotations. Under the policy fast it takes "
        "about an hour. Exit codes: 0 everything was proved, 1 not, 2 a person must choose."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("service", help="such as background-removal")
        parser.add_argument(
            "--environment",
            metavar="SLUG",
            help="Default: the lowest one with a key; never a protected one.",
        )
        parser.add_argument("--policy", metavar="SLUG", default="fast", help="Default: fast.")
        parser.add_argument(
            "--provider-simulator",
            action="store_true",
            help="Use a simulated provider and a key of its own, SERVICE-drill. Needs an address on "
            "127.0.0.1 in KEYTURN_EGRESS_ALLOW, for this command and the workers alike.",
        )
        parser.add_argument(
            "--output", metavar="DIR", type=Path, default=Path(), help="For the evidence. Default: here."
        )
        parser.add_argument(
            "--as", dest="username", metavar="USERNAME", help="Act with this person's rights."
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the report as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._shown: tuple[object, ...] = ()
        if not options["output"].is_dir():
            raise CommandError(f"{options['output']} is no directory.")
        try:
            actor = actor_named(options["username"])
            policy = _policy(options["policy"])
            key = drill.choose_key(actor, options["service"], options["environment"])
            pace = drill.Pace(clock.now, time.sleep, self._follow)
            with _ground(actor, key, simulated=options["provider_simulator"]) as ground:
                report = drill.rehearse(actor, ground, policy, pace)
        except KeyturnError as error:
            raise CommandError(refusal(error)) from error
        except drill.DrillStopped as stopped:
            text = f"Rotation {stopped.rotation.id} asks for a person: {stopped}"
            raise CommandError(text, returncode=NEEDS_A_PERSON) from stopped
        files = [_write(options["output"], rotation_id) for rotation_id in report.rotations]
        self._print(report, files, as_json=options["as_json"])
        if not report.good:
            raise CommandError("The drill did not prove everything.", returncode=NOT_PROVED)

    def _follow(self, rotation: Rotation) -> None:
        """A line on standard error whenever something has changed."""
        line = (rotation.id, rotation.stage, rotation.weight, rotation.waiting_code, rotation.paused)
        if line == self._shown:
            return
        self._shown = line
        note = "paused by a person" if rotation.paused else rotation.waiting_for
        text = f"{rotation.id.hex[:8]}  {rotation.stage:<12}{rotation.weight:>4} %"
        self.stderr.write(f"{text}  {note}" if note else text)

    def _print(self, report: drill.Report, files: list[Path], *, as_json: bool) -> None:
        if as_json:
            document = {**asdict(report), "good": report.good, "evidence": [str(file) for file in files]}
            self.stdout.write(json.dumps(document, cls=DjangoJSONEncoder))
            return
        minutes = (report.ended_at - report.began_at).total_seconds() / 60
        place = f"{report.service}/{report.environment}"
        self.stdout.write(f"Drill of {place} under the policy {report.policy}, {minutes:.0f} minutes")
        for finding in report.findings:
            self.stdout.write(f"  {'proved ' if finding.good else 'NOT SO '}  {finding.name}")
        for file in files:
            self.stdout.write(f"  evidence  {file}")


def _policy(slug: str) -> RotationPolicy:
    policy = RotationPolicy.objects.filter(slug=slug).first()
    if policy is None:
        raise CommandError(f"There is no policy {slug}.")
    return policy


@contextmanager
def _ground(actor: Actor, key: Key, *, simulated: bool) -> Iterator[Key]:
    """The key that is rehearsed with."""
    if not simulated:
        yield key
        return
    with simulated_key(actor, key, now=clock.now()) as stand_in:
        yield stand_in


def _write(folder: Path, rotation_id: uuid.UUID) -> Path:
    rows = Rotation.objects.select_related(
        "key__service__provider", "key__environment", "outgoing", "incoming"
    )
    rotation = rows.get(pk=rotation_id)
    file = folder / evidence_name(rotation)
    file.write_bytes(evidence_file(evidence_of(rotation)))
    return file
