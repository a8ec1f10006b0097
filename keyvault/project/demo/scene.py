"""What every chapter of the demo has at hand: the world, the consumers' ledger, a voice, and patience."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from keyvault.project.demo.cast import POLICY, DemoKey
from keyvault.project.demo.furnishing import World
from keyvault.project.demo.instances import Instance
from keyvault.project.demo.ledger import Ledger
from keyvault.project.demo.rotating import LOOK_EVERY, Follower, refuse_to_hang
from keyvault.project.demo.screen import Screen
from keyvault.project.demo.trouble import DemoError


@dataclass
class Scene:
    """Shared by chapters that are played at the same time, each in a thread of its own."""

    world: World
    ledger: Ledger
    screen: Screen
    stop: threading.Event
    staging: Sequence[Instance]
    followers: list[Follower] = field(default_factory=list)  # every rotation so far, in the order of starts

    def say(self, chapter: str, text: str) -> None:
        """A line about a chapter that stays on the screen."""
        self.screen.say(f"({chapter}) {text}")

    def rotate(self, chapter: str, key: DemoKey, reason: str, policy: str = POLICY) -> Follower:
        """Start a rotation and follow it. Raises ``DemoError``."""
        started = self.world.api.post(f"{key.path}rotations/", {"policy": policy, "reason": reason})
        return self.follow(chapter, key, started)

    def follow(self, chapter: str, key: DemoKey, started: dict[str, object]) -> Follower:
        """Follow a rotation that the API says was started."""
        follower = Follower(self.world, self.ledger, key, started, chapter)
        self.followers.append(follower)
        return follower

    def until(self, what: str, question: Callable[[], bool], every: float = LOOK_EVERY) -> None:
        """Ask until it is true. Raises ``DemoError``, with ``what`` there was to wait for."""
        waited, patience = 0.0, self.world.pace.patience
        while not question():
            if waited > patience:
                raise DemoError(f"{what}: not within {patience:.0f} s")
            if self.stop.wait(every):
                raise DemoError(f"{what}: stopped before")
            waited += every

    def until_open(self, follower: Follower, what: str, question: Callable[[], bool]) -> None:
        """Look at the rotation until the answer is true, before it is over and without a person."""

        def reached() -> bool:
            follower.look()
            if question():
                return True
            refuse_to_hang(follower)
            if follower.seen.over:
                raise DemoError(f"{what}: the rotation is {follower.seen.stage} already")
            return False

        self.until(f"{follower.key.name}: {what}", reached)

    def until_over(self, *followers: Follower) -> None:
        """Look until all are over. Raises ``DemoError`` for one that hangs or wants a person."""

        def over() -> bool:
            for follower in followers:
                if not follower.seen.over:
                    follower.look()
                    refuse_to_hang(follower)
            return all(follower.seen.over for follower in followers)

        names = ", ".join(follower.key.name for follower in followers)
        self.until(f"{names}: the end of the rotation", over)

    def failed(self, key: DemoKey, *, spoiled: int | None = None) -> int:
        """Requests with the key that failed, those with the version that was made bad left out."""
        return self.ledger.totals(key.name, without_version=spoiled).failed

    def await_return(self, key: DemoKey, spoiled: int) -> bool:
        """Wait until no instance holds this version any more; each asks again within the refresh time."""
        self.until(
            f"{key.name}: nobody holds version {spoiled}",
            lambda: not self.ledger.holders(key.name, spoiled),
            every=0.1,
        )
        return True
