"""manage.py rotate: start a rotation, show what it would do, follow it to its end."""

from __future__ import annotations

import json
import time
import uuid
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder

from keyvault import clock
from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from rotation.facts import Stage
from rotation.management.naming import actor_named, refusal
from rotation.models import Rotation, RotationPolicy
from rotation.plan import Plan, plan
from rotation.services import starting
from rotation.services.policies import policy_for

NOT_REPLACED = 1
NEEDS_A_PERSON = 2


class Command(BaseCommand):
    help = (
        "Start to replace the current version of a key. Exit codes with --wait: 0 replaced, "
        "1 rolled back or cancelled, 2 a person must choose."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("service", help="such as background-removal")
        parser.add_argument("environment", help="such as prod")
        parser.add_argument("--policy", metavar="SLUG", help="Default: the one that the key follows.")
        parser.add_argument("--reason", default="", help="Kept in the timeline and the audit.")
        parser.add_argument(
            "--as", dest="username", metavar="USERNAME", help="Act with this person's rights."
        )
        parser.add_argument("--dry-run", action="store_true", help="Show what would happen; change nothing.")
        parser.add_argument(
            "--wait", action="store_true", help="Print every change until it ends or needs a person."
        )
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="Print JSON, one object a line."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.as_json: bool = options["as_json"]
        try:
            self._rotate(options)
        except KeyturnError as error:
            raise CommandError(refusal(error)) from error

    def _rotate(self, options: dict[str, Any]) -> None:
        actor = actor_named(options["username"])
        key = self._key(actor, options["service"], options["environment"])
        policy = self._policy(options["policy"])
        if options["dry_run"]:
            chosen = policy or policy_for(key)
            self._show_plan(plan(key, chosen.value, chosen.slug, now=clock.now()))
            return
        rotation = starting.start(
            actor, key, policy=policy, reason=options["reason"], trigger="person", now=clock.now()
        )
        self._say(rotation)
        if options["wait"]:
            self._follow(rotation.id, self._mark(rotation))

    def _key(self, actor: Actor, service: str, environment: str) -> Key:
        key = (
            Key.objects.for_actor(actor)
            .named(service, environment)
            .select_related("service__provider", "service__team", "environment", "current")
            .first()
        )
        if key is None:
            raise CommandError(f"There is no key {service}/{environment}.")
        return key

    def _policy(self, slug: str | None) -> RotationPolicy | None:
        if slug is None:
            return None
        policy = RotationPolicy.objects.filter(slug=slug).first()
        if policy is None:
            known = ", ".join(RotationPolicy.objects.values_list("slug", flat=True))
            raise CommandError(f"There is no policy {slug}. There are: {known}.")
        return policy

    # Following --------------------------------------------------------------------------------------

    def _follow(self, rotation_id: uuid.UUID, mark: tuple[object, ...]) -> None:
        pause = min(max(settings.KEYTURN_TICK / 2, 0.2), 5.0)
        while True:
            rotation = Rotation.objects.select_related("incoming", "outgoing").get(pk=rotation_id)
            if self._mark(rotation) != mark:
                mark = self._mark(rotation)
                self._say(rotation)
            if not rotation.is_open:
                break
            if rotation.attention:
                raise CommandError(rotation.attention_reason, returncode=NEEDS_A_PERSON)
            time.sleep(pause)
        if rotation.stage != Stage.SUCCEEDED:
            raise CommandError(rotation.rolled_back_reason or "cancelled", returncode=NOT_REPLACED)

    def _mark(self, rotation: Rotation) -> tuple[object, ...]:
        """What makes a new line worth printing."""
        return rotation.stage, rotation.weight, rotation.paused, rotation.attention

    def _say(self, rotation: Rotation) -> None:
        if self.as_json:
            document = {
                "rotation": rotation.id,
                "stage": rotation.stage,
                "weight": rotation.weight,
                "paused": rotation.paused,
                "attention": rotation.attention or None,
                "waiting_for": rotation.waiting_for or None,
                "outgoing": rotation.outgoing.number if rotation.outgoing else None,
                "incoming": rotation.incoming.number if rotation.incoming else None,
            }
            self.stdout.write(json.dumps(document, cls=DjangoJSONEncoder))
            return
        line = f"{rotation.id}  {rotation.stage:<12}{rotation.weight:>4} %"
        note = rotation.attention_reason or ("paused" if rotation.paused else rotation.waiting_for)
        self.stdout.write(f"{line}  {note}" if note and rotation.is_open else line)

    # The plan ---------------------------------------------------------------------------------------

    def _show_plan(self, planned: Plan) -> None:
        if self.as_json:
            self.stdout.write(json.dumps(asdict(planned), cls=DjangoJSONEncoder))
            return
        was = f"v{planned.outgoing}" if planned.outgoing else "nothing"
        self.stdout.write(
            f"{planned.service}/{planned.environment}: {was} would be replaced by v{planned.incoming}"
            f" under the policy {planned.policy}"
        )
        for call in planned.calls:
            note = f" ({call.note})" if call.note else ""
            self.stdout.write(f"  {call.operation} {call.side}, by the {call.by}{note}")
        for step in planned.steps:
            names = ", ".join(f"{one.consumer}/{one.instance} of {one.team}" for one in step.instances)
            self.stdout.write(f"  {step.weight:>3} %  from {step.at:%Y-%m-%d %H:%M:%S %Z}  {names}".rstrip())
        for stage, at in planned.stages:
            self.stdout.write(f"  {stage:<10} {at:%Y-%m-%d %H:%M:%S %Z} at the earliest")
        for unmet in planned.unmet:
            self.stdout.write(f"  {'Refused' if unmet.blocking else 'Note'}: {unmet.message}")
        if any(unmet.blocking for unmet in planned.unmet):
            raise CommandError("It would be refused now.")
