"""The demo from its first line to its last: who is started when, and who is stopped."""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from keyvault.crypto.secret import Secret
from keyvault.project.demo import breaking
from keyvault.project.demo.furnishing import CONSUMERS, COPIES, SERVICES, World, furnish, instances
from keyvault.project.demo.instances import Instance
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.managing import Api
from keyvault.project.demo.pace import Pace
from keyvault.project.demo.report import Invitation, result_table, rollback_story, what_next
from keyvault.project.demo.results import ProviderResult, Result, RollbackResult
from keyvault.project.demo.rotating import Follower, follow, refused
from keyvault.project.demo.screen import Screen
from keyvault.project.demo.serving import Keyturn
from keyvault.project.demo.trouble import DemoError
from rotation.simulators import SIMULATORS, running

LEAD: Final = "demo-lead"
_FAILURES_TOLD: Final = 10
_WARM_SECONDS: Final = 60.0
_WARM_REQUESTS: Final = 100  # to each provider, before anything is rotated


class Play:
    """One run of the demo. ``perform`` once, then perhaps ``stay``; ``close`` stops everything."""

    def __init__(self, data: Path, port: int, pace: Pace, screen: Screen) -> None:
        self._data, self._port, self._pace, self._screen = data, port, pace, screen
        self._stack = ExitStack()
        self._ledger = Ledger()
        self._stop = threading.Event()
        self._instances: list[Instance] = []
        self._keyturn: Keyturn | None = None
        self._invitation: Invitation | None = None

    def close(self) -> None:
        """Stop consumers, Keyturn and the simulators, in this order."""
        self._stop.set()
        for instance in self._instances:
            instance.join(15)
        self._stack.close()

    def perform(self) -> Result:
        """Set up, rotate everything, break one rotation. Raises ``DemoError``."""
        world = self._set_up()
        self._open_shop(world)
        followers = self._rotate(world)
        self._screen.keep()
        self._screen.say("\nNow one goes wrong: the same again, but the new key will be rejected on the way.")
        rollback = breaking.go_wrong(world, self._ledger, self._screen)
        self._screen.keep()
        self._check_crew()
        return Result([self._result(world, f, rollback) for f in followers], rollback)

    def stay(self) -> None:
        """Keep everything running until the process is interrupted. Raises ``DemoError``."""
        if self._invitation is None:
            raise RuntimeError("nothing was performed")
        for line in what_next(self._invitation):
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

    def _open_shop(self, world: World) -> None:
        """Start the consumers, and wait until all of them work with all four keys."""
        many = len(CONSUMERS) * COPIES
        self._screen.say(f"Starting {many} consumer instances; each uses all four providers all the time ...")
        self._instances = instances(world, self._ledger, self._stop)
        for instance in self._instances:
            instance.start()
        deadline = time.monotonic() + _WARM_SECONDS
        while not all(self._warm(slug, many) for slug in world.simulators):
            self._check_crew()
            if time.monotonic() > deadline:
                raise DemoError(f"The consumers do not get going: {self._ledger.unanswered_counts()}")
            time.sleep(0.1)

    def _warm(self, provider: str, many: int) -> bool:
        enough = self._ledger.totals(provider).requests >= _WARM_REQUESTS
        return enough and self._ledger.instances(provider) == many

    def _rotate(self, world: World) -> list[Follower]:
        self._screen.say("Rotating the prod key of all four at the same time:\n")
        followers = [Follower(world, self._ledger, slug, "the demo") for slug in world.simulators]
        follow(followers, self._screen, self._pace.patience)
        return followers

    def unanswered(self) -> dict[str, int]:
        """How often a consumer did not get an answer from Keyturn itself, by cause."""
        return self._ledger.unanswered_counts()

    def failures(self, result: Result) -> list[str]:
        """The first requests that should not have failed, one line each."""
        return [
            f"{datetime.fromtimestamp(one.at, UTC):%H:%M:%S} {one.provider}: {one.outcome} ({one.status}) "
            f"for {one.instance} with version {one.version}, by {one.credential}"
            for provider in result.providers
            for one in self._ledger.failures(provider.provider)
            if (one.provider, one.version) != (result.rollback.provider, result.rollback.bad_version)
        ][:_FAILURES_TOLD]

    def _check_crew(self) -> None:
        for instance in self._instances:
            if instance.died is not None:
                raise DemoError(f"{instance.name} stopped by a mistake of the demo's: {instance.died!r}")
        if self._keyturn is not None and not self._keyturn.alive():
            raise DemoError(f"Keyturn has stopped:\n{self._keyturn.last_words()}")

    def _result(self, world: World, follower: Follower, rollback: RollbackResult) -> ProviderResult:
        """What is proved about one provider; requests with the key that was made bad are another story."""
        provider, old = follower.provider, follower.seen.outgoing or 0
        bad = rollback.bad_version if provider == rollback.provider else None
        totals = self._ledger.totals(provider, without_version=bad)
        secret = self._ledger.secret(provider, old)
        return ProviderResult(
            provider=provider,
            requests=totals.requests,
            failed=totals.failed,
            stage=follower.seen.stage,
            old_key_refused=secret is not None and refused(world, provider, secret),
            old_version=old,
            new_version=follower.seen.incoming or 0,
            shares=follower.shares(),
            audit_events=len(world.api.everything("/v1/audit/", key=f"{SERVICES[provider][0]}/prod")),
        )


def print_result(result: Result, screen: Screen, output: TextIO | None) -> None:
    """The table and the story for people; the object on ``output`` where one is wanted."""
    screen.say()
    for line in [*result_table(result), "", *rollback_story(result.rollback), ""]:
        screen.say(line)
    if output is not None:
        output.write(json.dumps(result.as_json()) + "\n")
        output.flush()
