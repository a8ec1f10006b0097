"""manage.py emergency: plan, start, show, stop and resume a bulk emergency."""

from __future__ import annotations

import sys
import uuid
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from keyvault.actors import Actor
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from rotation.management.naming import actor_named, refusal
from rotation.models import EmergencyRun
from rotation.services import radius, results, runs
from rotation.services.emergencies import MODES
from rotation.services.radius import Radius


class Command(BaseCommand):
    help = (
        "Replace or kill every key of a provider, team, environment, service or person, or those that hold a"
        " leaked secret, read from standard input. 'plan' shows what would happen and touches nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--as", dest="username", metavar="USERNAME", help="With this person's rights.")
        verbs = parser.add_subparsers(dest="verb", required=True)
        for verb in ("plan", "start"):
            choice = verbs.add_parser(verb)
            choice.add_argument("scope", choices=radius.SCOPES)
            choice.add_argument("name", nargs="?", default="", help="Its slug or username; none for a leak.")
            choice.add_argument("--mode", choices=MODES, default="replace")
            choice.add_argument("--reachable", action="store_true", help="Also what a lead could see.")
            if verb == "start":
                choice.add_argument("--plan", required=True, help="The hash that 'plan' printed.")
                choice.add_argument("--count", required=True, type=int, help="How many keys are started.")
                choice.add_argument("--reason", required=True)
        for verb in ("show", "stop", "resume"):
            known = verbs.add_parser(verb)
            known.add_argument("run", type=uuid.UUID)
            if verb != "show":
                known.add_argument("--reason", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        actor, now = actor_named(options["username"]), clock.now()
        try:
            if options["verb"] in ("plan", "start"):
                self._begin(actor, options, now)
            else:
                self._tell(actor, options, now)
        except KeyturnError as error:
            raise CommandError(refusal(error)) from error

    def _begin(self, actor: Actor, options: dict[str, Any], now: datetime) -> None:
        scope, mode = options["scope"], options["mode"]
        leak = _pasted() if scope == "leak" else None
        found, tokens, subject = radius.chosen(
            actor, scope, options["name"], leak=leak, reachable=options["reachable"]
        )
        drawn = radius.radius(actor, found, tokens, scope=scope, subject=subject, mode=mode, now=now)
        if options["verb"] == "plan":
            self._show_plan(drawn)
            return
        how = {name: options[name] for name in ("count", "plan", "reason")}
        self._show(actor, runs.start(actor, drawn, **how, now=now))

    def _tell(self, actor: Actor, options: dict[str, Any], now: datetime) -> None:
        if options["verb"] == "show":
            self._show(actor, runs.find(actor, options["run"]))
            return
        act = runs.stop if options["verb"] == "stop" else runs.resume
        self._show(actor, act(actor, options["run"], reason=options["reason"], now=now))

    def _show_plan(self, drawn: Radius) -> None:
        for planned in drawn.keys:
            key, version = planned.target.key, planned.target.version
            what = planned.refusal.message if planned.refusal is not None else str(planned.way)
            number = f"v{version.number}" if version is not None else "–"
            what += "; no key until the new one is there" if planned.gap else ""
            self.stdout.write(
                f"{key}  {number}  of {key.service.team.slug}: {what}"
                f"  ({len(planned.instances)} instance(s), {planned.open_jobs} open job(s))"
            )
        for found in drawn.tokens:
            what = found.refusal.message if found.refusal is not None else "revoke"
            self.stdout.write(f"token {found.token.hint} of {found.token.consumer.slug}: {what}")
        self.stdout.write(f"--count {drawn.count} --plan {drawn.digest}")

    def _show(self, actor: Actor, run: EmergencyRun) -> None:
        items = list(runs.items_for(actor, run))
        for item in items:
            what = str(item.key) if item.key is not None else f"token {item.token.hint if item.token else ''}"
            note = f"  {item.message}" if item.message else ""
            self.stdout.write(f"{what}  {results.result_of(item)}{note}")
        counted = ", ".join(f"{n} {result}" for result, n in results.progress(items).items() if n)
        self.stdout.write(f"{run.id}  {run.state}: {counted}")


def _pasted() -> Secret:
    """One line of standard input: arguments would show in the list of processes."""
    text = sys.stdin.readline().rstrip("\r\n")
    try:
        return check_secret(text)
    except SecretRefused as refused:
        if refused.code == "own_token":
            return Secret(text)
        raise CommandError(refused.message) from None
