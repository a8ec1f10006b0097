"""Rotations as the demo follows them over the API, and the person who does by hand what no API can."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from keyvault.crypto.secret import Secret
from keyvault.durations import parse_duration
from keyvault.presets import PROVIDER_PRESETS
from keyvault.project.demo.cast import MANUAL, DemoKey
from keyvault.project.demo.furnishing import World, use_of
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.results import Share
from keyvault.project.demo.screen import Row
from keyvault.project.demo.trouble import DemoError
from keyvault.project.demo.uses import Held, Seen
from rotation.facts import TERMINAL, Stage, Verb

LOOK_EVERY: Final = 1.2  # seconds; eight rotations stay below the 600 requests a minute of a user token


@dataclass(frozen=True)
class Look:
    """A rotation as one answer of the API shows it."""

    id: str
    stage: str
    weight: int
    attention: str
    waiting_for: str
    clock: str
    monitored: bool  # for as long as the policy asks
    outgoing: int | None
    incoming: int | None
    verbs: tuple[str, ...]
    offenders: tuple[str, ...]
    weights: tuple[tuple[datetime, int], ...]
    operations: tuple[str, ...]  # what was asked of the provider and what came of it, in order
    rolled_back: tuple[datetime, str] | None  # when, and why

    @property
    def over(self) -> bool:
        return self.stage in TERMINAL


class Follower:
    """One rotation of a key, from its start to its end."""

    def __init__(
        self, world: World, ledger: Ledger, key: DemoKey, started: Mapping[str, Any], chapter: str
    ) -> None:
        """``started`` is the rotation as the API showed it first."""
        self.key, self.chapter = key, chapter
        self._world, self._ledger = world, ledger
        self.seen = read_look(started)
        self._begun = time.time()
        self._moved: dict[int, int] = {}  # weight -> most instances on the incoming version

    @property
    def label(self) -> str:
        """How the labels begin that Keyturn gives at the provider to the keys of this rotation."""
        return f"keyturn-{self.seen.id.replace('-', '')[:20]}-"

    def look(self) -> Look:
        """What the rotation is doing now; a person's part is done where one is asked for."""
        path = f"/v1/rotations/{self.seen.id}/"
        self.seen = read_look(self._world.api.get(path))
        if self.key.provider == MANUAL and self.seen.attention:
            self._do_by_hand(path)
        moved = self.moved()
        self._moved[self.seen.weight] = max(moved, self._moved.get(self.seen.weight, 0))
        return self.seen

    def moved(self) -> int:
        """Instances that hold the incoming version."""
        number = self.seen.incoming
        return len(self._ledger.holders(self.key.name, number)) if number is not None else 0

    def shares(self) -> tuple[Share, ...]:
        """Every weight there was, in order."""
        instances = self._ledger.instances(self.key.name)
        return tuple(
            Share(round(at.timestamp() - self._begun, 1), weight, self._moved.get(weight, 0), instances)
            for at, weight in self.seen.weights
        )

    def row(self) -> Row:
        """This rotation as a line of the live table."""
        totals = self._ledger.totals(self.key.name)
        shown = self.seen.stage in (Stage.SHIFT, Stage.MONITOR, Stage.REVOKE, Stage.SUCCEEDED)
        return Row(
            key=f"{self.chapter} {self.key.name}",
            stage=self.seen.stage,
            weight=f"{self.seen.weight} %" if shown else "",
            instances=f"{self.moved()}/{self._ledger.instances(self.key.name)}" if shown else "",
            clock=self.seen.clock,
            requests=str(totals.requests),
            failed=str(totals.failed),
            waiting_for="" if self.seen.over else self.seen.waiting_for,
        )

    def _do_by_hand(self, path: str) -> None:
        """What a person does on the account page of a provider without an API for keys, and tells Keyturn."""
        page = self._world.simulators[self.key.provider].control
        label = self.key.page_label
        if Verb.SUPPLY in self.seen.verbs:
            made = page.create_key(label)
            body = {"secret": made.value.expose(), "reason": "made on the account page"}
            self.seen = read_look(self._world.api.post(f"{path}supply/", body))
        elif Verb.CONFIRM_REVOKED in self.seen.verbs:
            keys = page.keys()
            *older, _ = sorted((key for key in keys if key.label == label), key=lambda key: key.created_at)
            for key in older:
                if key.state == "live":
                    page.revoke(key.id)
            body = {"reason": "revoked on the account page"}
            self.seen = read_look(self._world.api.post(f"{path}confirm-revoked/", body))


def refuse_to_hang(follower: Follower) -> None:
    """Raises ``DemoError`` for a rotation that wants a person where there is nothing to do by hand."""
    seen = follower.seen
    if seen.attention and follower.key.provider != MANUAL:
        raise DemoError(
            f"The rotation of {follower.key.name} wants a person: {seen.attention}, {seen.waiting_for}"
        )


def probe(world: World, provider: str, secret: Secret) -> Seen:
    """One real request to the provider with this key."""
    preset = next(preset for preset in PROVIDER_PRESETS if preset.slug == provider)
    base_url = world.simulators[provider].base_url
    held = Held(0, secret, preset.auth_header, preset.auth_scheme, base_url)
    use = use_of(provider, world.pace)
    try:
        return use.step(held)
    finally:
        use.close()


def refused(world: World, provider: str, secret: Secret) -> bool:
    """Does the provider refuse this key? Asked by a request, and of its ground truth."""
    return probe(world, provider, secret).status == 401 and not world.simulators[provider].control.honours(
        secret
    )


def works(world: World, provider: str, secret: Secret) -> bool:
    """Does the provider accept this key? Asked by a request, and of its ground truth."""
    return probe(world, provider, secret).ok and world.simulators[provider].control.honours(secret)


def read_look(data: Mapping[str, Any]) -> Look:
    """A rotation of the API as a ``Look``."""
    events = [(datetime.fromisoformat(event["at"]), event) for event in data["events"]]
    rollbacks = [(at, str(event["reason"])) for at, event in events if event["name"] == "rollback"]
    return Look(
        id=str(data["id"]),
        stage=str(data["stage"]),
        weight=int(data["weight"]),
        attention=str(data["attention"]["code"]) if data["attention"] else "",
        waiting_for=data["attention"]["reason"] if data["attention"] else data["waiting_for"] or "",
        clock=_clock(data) if data["stage"] == Stage.MONITOR else "",
        monitored=_monitored(data),
        outgoing=_number(data["outgoing"]),
        incoming=_number(data["incoming"]),
        verbs=tuple(data["verbs"]),
        offenders=tuple(str(offender["who"]) for offender in data["proof"]["offenders"]),
        weights=tuple((at, int(event["weight"])) for at, event in events if event["name"] == "weight"),
        operations=tuple(str(event["reason"]) for _, event in events if event["name"] == "operation"),
        rolled_back=rollbacks[-1] if rollbacks else None,
    )


def _number(side: Mapping[str, Any] | None) -> int | None:
    return int(side["version"]) if side else None


def _times(data: Mapping[str, Any]) -> tuple[float, float]:
    """Observed healthy time and how much of it is needed, in seconds."""
    observed, required = (parse_duration(data["clock"][name]) for name in ("observed", "required"))
    return observed.total_seconds(), required.total_seconds()


def _clock(data: Mapping[str, Any]) -> str:
    observed, required = _times(data)
    return f"{observed:.0f} of {required:.0f} s"


def _monitored(data: Mapping[str, Any]) -> bool:
    observed, required = _times(data)
    return observed >= int(required)
