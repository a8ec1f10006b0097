"""A lost answer: the provider creates a key and its answer never arrives. What it made must not stay."""

from __future__ import annotations

import threading
from typing import Final

from keyvault.project.demo.cast import FORGETFUL, DemoKey
from keyvault.project.demo.results import Told, unmet
from keyvault.project.demo.rotating import Follower
from keyvault.project.demo.scene import Scene
from rotation.facts import Stage
from rotation.simulators import KeyView

KEY: Final = DemoKey(FORGETFUL, "staging")


def lost_answer(scene: Scene, alone: threading.Event) -> Told:
    """``alone`` is set when the next creation at this provider is an ordinary one again: the simulator loses
    the answer to whichever comes first. Raises ``DemoError``."""
    provider = scene.world.simulators[KEY.provider].control
    try:
        provider.set_fault(lose_create_answers=1)
        scene.say("e", f"{KEY.provider} will create a key for {KEY.name}, and its answer will be lost")
        follower = scene.rotate("e", KEY, "the demo's rotation with a lost answer")
        scene.until(
            f"{KEY.name}: a lost answer", lambda: not provider.faults()["lose_create_answers"], every=0.1
        )
    finally:
        provider.set_fault(lose_create_answers=0)
        alone.set()
    scene.say("e", f"{KEY.provider} has made a key that Keyturn was never told of")
    scene.until_over(follower)
    made = _made(scene, follower)
    live = [key for key in made if key.state != "revoked"]
    secret = scene.ledger.secret(KEY.name, follower.seen.incoming or 0)
    failed = scene.failed(KEY)
    problems = unmet(
        {
            "the provider had made a key whose answer was lost": len(made) > 1,
            "Keyturn went to find out what became of it": _reconciled(follower),
            f"of {len(made)} keys made for this rotation one is left ({len(live)} are)": len(live) == 1,
            "the one that is left is the one that consumers have": secret is not None
            and provider.honours(secret),
            "the rotation succeeded": follower.seen.stage == Stage.SUCCEEDED,
            f"no request failed ({failed} did)": failed == 0,
        }
    )
    return Told(
        f"{KEY.name}: {len(made)} keys were made at {KEY.provider}, {len(made) - len(live)} of them revoked "
        f"without ever being used; the rotation {follower.seen.stage}",
        problems,
    )


def _made(scene: Scene, follower: Follower) -> list[KeyView]:
    """What the provider knows of keys that this rotation asked for."""
    keys = scene.world.simulators[KEY.provider].control.keys()
    return [key for key in keys if key.label.startswith(follower.label)]


def _reconciled(follower: Follower) -> bool:
    return any(reason.startswith("reconcile incoming:") for reason in follower.seen.operations)
