"""An emergency: a key has leaked. It is replaced and revoked in seconds, and consumers go on."""

from __future__ import annotations

import time
from typing import Final

from keyvault.project.demo.cast import DemoKey
from keyvault.project.demo.furnishing import current_version
from keyvault.project.demo.results import Told, unmet
from keyvault.project.demo.rotating import refused
from keyvault.project.demo.scene import Scene
from keyvault.project.demo.trouble import DemoError
from rotation.facts import Stage

KEY: Final = DemoKey("backgroundcut", "staging")


def emergency(scene: Scene) -> Told:
    """Raises ``DemoError``."""
    provider = scene.world.simulators[KEY.provider].control
    leaked = current_version(scene.world.api, KEY)
    secret = scene.ledger.secret(KEY.name, leaked) if leaked is not None else None
    if leaked is None or secret is None:
        raise DemoError(f"{KEY.name} has no version that anybody uses.")
    before = scene.ledger.totals(KEY.name).requests
    scene.say("f", f"version {leaked} of {KEY.name} has leaked: emergency")
    begun = time.monotonic()
    body = {"mode": "replace", "reason": "the demo found it in a public place"}
    follower = scene.follow("f", KEY, scene.world.api.post(f"{KEY.path}emergency/", body))
    scene.until_open(follower, "the end of the leaked key", lambda: not provider.honours(secret))
    took = time.monotonic() - begun
    scene.say("f", f"{KEY.provider} refuses version {leaked}, {took:.1f} s after it was reported")
    scene.until_over(follower)
    scene.await_return(KEY, leaked)
    failed = scene.failed(KEY)
    requests = scene.ledger.totals(KEY.name).requests - before
    problems = unmet(
        {
            "the rotation succeeded": follower.seen.stage == Stage.SUCCEEDED,
            f"version {leaked} is refused": refused(scene.world, KEY.provider, secret),
            f"version {leaked} is no longer current": current_version(scene.world.api, KEY)
            == follower.seen.incoming,
            "consumers went on": requests > 0,
            f"no request failed ({failed} did)": failed == 0,
        }
    )
    return Told(
        f"{KEY.name}: version {leaked} was refused {took:.1f} s after it was reported; "
        f"{failed} of {requests} requests failed meanwhile",
        problems,
    )
