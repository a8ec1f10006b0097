"""The demo from its first line to its last: who is started when, and who is stopped."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from keyvault.crypto.secret import Secret
from keyvault.project.demo.cast import CONSUMERS, COPIES, STAGING_CONSUMERS, DemoKey
from keyvault.project.demo.furnishing import World, furnish, instances, staging_instances
from keyvault.project.demo.instances import Instance
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.managing import Api
from keyvault.project.demo.pace import Pace
from keyvault.project.demo.programme import CHAPTERS, Programme
from keyvault.project.demo.report import Invitation, chapter_list, result_table, rollback_story, what_next
from keyvault.project.demo.results import ChapterResult, ProviderResult, Result, Told
from keyvault.project.demo.rotating import Follower, refused
from keyvault.project.demo.scene import Scene
from keyvault.project.demo.screen import Screen
from keyvault.project.demo.serving import Keyturn
from keyvault.project.demo.trouble import DemoError
from rotation.simulators import SIMULATORS, running

LEAD: Final = "demo-lead"
_FAILURES_TOLD: Final = 10
_WARM_SECONDS: Final = 300.0
_WARM_REQUESTS: Final = 100  # with each prod key, before anything is rotated


class Play:
    """One run of the demo. ``perform`` once, then perhaps ``stay``; ``close`` stops everything."""

    def __init__(self, data: Path, port: int, pace: Pace, screen: Screen) -> None:
        self._data, self._port, self._pace, self._screen = data, port, pace, screen
        self._stack = ExitStack()
        self._ledger = Ledger()
        self._stop = threading.Event()
        self._instances: list[Instance] = []
        self._programme: Programme | None = None
        self._keyturn: Keyturn | None = None
        self._invitation: Invitation | None = None

    def close(self) -> None:
        """Stop chapters and consumers, then Keyturn and the simulators."""
        self._stop.set()
        if self._programme is not None:
            self._programme.close()
        for instance in self._instances:
            instance.join(15)
        self._stack.close()

    def perform(self) -> Result:
        """Set up, and play every chapter. Raises ``DemoError``."""
        world = self._set_up()
        staging = self._open_shop(world)
        scene = Scene(world, self._ledger, self._screen, self._stop, staging)
        programme = self._programme = Programme(scene)
        self._screen.say("Rotating: four keys in prod and four in staging, side by side ...\n")
        chapters = programme.play(self._check_crew)
        self._screen.keep()
        self._check_crew()
        if "b" not in programme.rollbacks:
            raise DemoError(" ".join(problem for chapter in chapters for problem in chapter.problems()))
        providers = [self._result(world, follower, programme) for follower in programme.unnoticed]
        unnoticed, *others = chapters
        return Result(providers, programme.rollbacks["b"], [_with_proof(unnoticed, providers), *others])

    def stay(self) -> None:
        """Keep everything running until the process is interrupted. Raises ``DemoError``."""
        if self._invitation is None or self._programme is None:
            raise RuntimeError("nothing was performed")
        for instance in self._instances:
            instance.calm()
        shown = [
            (f"{one.seen.stage}: {CHAPTERS[one.chapter]}, {one.key.name}", one.seen.id)
            for one in self._programme.followers()
        ]
        for line in what_next(self._invitation, shown):
            self._screen.say(line)
        while True:
            time.sleep(0.5)
            self._check_crew()

    def _set_up(self) -> World:
        say = self._screen.say
        say("Starting four simulated providers and Keyturn (SQLite, an empty data directory) ...")
        simulators = {slug: self._stack.enter_context(running(slug)) for slug in SIMULATORS}
        allow = [simulator.host_port for simulator in simulators.values()]
        keyturn = self._keyturn = self._stack.enter_context(Keyturn(self._data, self._port, allow))
        token = keyturn.user_token(LEAD)
        password = Secret(secrets.token_urlsafe(12))
        keyturn.command("set_password", LEAD, text=password.expose())
        say(
            f"Keyturn answers at {keyturn.base_url}. Setting up services, keys and consumers over its API ..."
        )
        world = furnish(Api(keyturn.base_url, token), self._pace, simulators, LEAD)
        self._invitation = Invitation(
            base_url=keyturn.base_url,
            username=LEAD,
            password=password,
            consumer_token=world.consumers[0].token,
            data=self._data,
            dashboards={slug: simulator.base_url for slug, simulator in simulators.items()},
        )
        return world

    def _open_shop(self, world: World) -> list[Instance]:
        """Start the consumers, and wait until all of them work with all their keys. Returns staging's."""
        many = {"prod": len(CONSUMERS) * COPIES, "staging": len(STAGING_CONSUMERS)}
        self._screen.say(
            f"Starting {many['prod']} consumer instances in prod and {many['staging']} in staging; each uses "
            "all four providers all the time ..."
        )
        staging = staging_instances(world, self._ledger, self._stop)
        self._instances = [*instances(world, self._ledger, self._stop), *staging]
        for instance in self._instances:
            instance.start()
        keys = [DemoKey(slug, environment) for slug in world.simulators for environment in many]
        deadline = time.monotonic() + _WARM_SECONDS
        while not all(self._warm(key, many[key.environment]) for key in keys):
            self._check_crew()
            if time.monotonic() > deadline:
                raise DemoError(f"The consumers do not get going: {self._ledger.unanswered_counts()}")
            time.sleep(0.1)
        return staging

    def _warm(self, key: DemoKey, many: int) -> bool:
        least = _WARM_REQUESTS if key.environment == "prod" else many
        enough = self._ledger.totals(key.name).requests >= least
        return enough and self._ledger.instances(key.name) == many

    def unanswered(self) -> dict[str, int]:
        """How often a consumer did not get an answer from Keyturn itself, by cause."""
        return self._ledger.unanswered_counts()

    def failures(self) -> list[str]:
        """The first requests that should not have failed, one line each."""
        if self._programme is None:
            return []
        spoiled = self._programme.spoiled()
        return [
            f"{datetime.fromtimestamp(one.at, UTC):%H:%M:%S} {one.key}: {one.outcome} ({one.status}) "
            f"for {one.instance} with version {one.version}, by {one.credential}"
            for key in sorted({follower.key.name for follower in self._programme.scene.followers})
            for one in self._ledger.failures(key)
            if (one.key, one.version) not in spoiled
        ][:_FAILURES_TOLD]

    def _check_crew(self) -> None:
        for instance in self._instances:
            if instance.died is not None:
                raise DemoError(f"{instance.name} stopped by a mistake of the demo's: {instance.died!r}")
        if self._keyturn is not None and not self._keyturn.alive():
            raise DemoError(f"Keyturn has stopped:\n{self._keyturn.last_words()}")

    def _result(self, world: World, follower: Follower, programme: Programme) -> ProviderResult:
        """What is proved about one provider; requests with the key that was made bad are another story."""
        key, old = follower.key, follower.seen.outgoing or 0
        bad = next((version for name, version in programme.spoiled() if name == key.name), None)
        totals = self._ledger.totals(key.name, without_version=bad)
        secret = self._ledger.secret(key.name, old)
        return ProviderResult(
            provider=key.provider,
            requests=totals.requests,
            failed=totals.failed,
            stage=follower.seen.stage,
            old_key_refused=secret is not None and refused(world, key.provider, secret),
            old_version=old,
            new_version=follower.seen.incoming or 0,
            shares=follower.shares(),
            audit_events=len(world.api.everything("/v1/audit/", key=key.name)),
        )


def _with_proof(chapter: ChapterResult, providers: Sequence[ProviderResult]) -> ChapterResult:
    """The first chapter, with what all the requests until the end say of it."""
    requests = sum(provider.requests for provider in providers)
    failed = sum(provider.failed for provider in providers)
    problems = (*chapter.told.problems, *(p for provider in providers for p in provider.problems()))
    return replace(
        chapter, told=Told(f"{chapter.told.story}: {failed} of {requests} requests failed", problems)
    )


def print_result(result: Result, screen: Screen, output: TextIO | None) -> None:
    """The tables and the story for people; the object on ``output`` where one is wanted."""
    screen.say()
    story = [
        *result_table(result),
        "",
        *rollback_story(result.rollback),
        "",
        *chapter_list(result.chapters),
        "",
    ]
    for line in story:
        screen.say(line)
    if output is not None:
        output.write(json.dumps(result.as_json()) + "\n")
        output.flush()
