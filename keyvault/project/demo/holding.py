"""A straggler: one instance keeps the old key and does not ask again. It is named, and the old key lives."""

from __future__ import annotations

from typing import Final

from keyvault.project.demo.cast import DemoKey
from keyvault.project.demo.results import Told, unmet
from keyvault.project.demo.rotating import Follower, refused, works
from keyvault.project.demo.scene import Scene
from keyvault.project.demo.trouble import DemoError
from rotation.facts import Stage

KEY: Final = DemoKey("backgrounderase", "staging")
_LOOKS: Final = 4  # at a rotation that must not go on


def straggler(scene: Scene) -> Told:
    """Raises ``DemoError`` where it does not come to the hold, or not on from there."""
    account = scene.staging[-1].account(KEY)
    account.asks = False
    scene.say("d", f"{account.holder} keeps its key of {KEY.name} from now on and does not ask again")
    try:
        follower = scene.rotate("d", KEY, "the demo's rotation with a straggler")
        old = follower.seen.outgoing
        secret = scene.ledger.secret(KEY.name, old) if old is not None else None
        if old is None or secret is None:
            raise DemoError(f"{KEY.name} has no version that anybody uses.")
        scene.until_open(
            follower, "only the straggler in the way", lambda: _held_by(follower, account.holder)
        )
        reason = follower.seen.waiting_for
        scene.say("d", f"held in {follower.seen.stage}: {reason}")
        held = _stays_held(scene, follower)
        lives = works(scene.world, KEY.provider, secret)
    finally:
        account.asks = True
    scene.say("d", f"{account.holder} asks again")
    scene.until_over(follower)
    failed = scene.failed(KEY)
    problems = unmet(
        {
            f"the reason names {account.holder}: {reason}": account.holder in reason,
            "the rotation was held for as long as the straggler did not ask": held,
            f"version {old} worked for as long as the straggler had it": lives,
            "the rotation went on and succeeded": follower.seen.stage == Stage.SUCCEEDED,
            f"version {old} is refused in the end": refused(scene.world, KEY.provider, secret),
            f"{account.holder} has the new version": account.holder
            in scene.ledger.holders(KEY.name, follower.seen.incoming or 0),
            f"no request failed ({failed} did)": failed == 0,
        }
    )
    return Told(f"{KEY.name}: {reason}; when it asked again, the rotation {follower.seen.stage}", problems)


def _held_by(follower: Follower, holder: str) -> bool:
    seen = follower.seen
    alone = seen.monitored and seen.offenders == (holder,)
    return alone and seen.stage == Stage.MONITOR and "in use" in seen.waiting_for


def _stays_held(scene: Scene, follower: Follower) -> bool:
    """Look a few times more: a rotation that only was slow would be in its next stage by then."""
    looks: list[str] = []

    def enough() -> bool:
        looks.append(follower.look().stage)
        return len(looks) >= _LOOKS

    scene.until(f"{KEY.name}: a few looks at what is held", enough)
    return set(looks) == {Stage.MONITOR}
