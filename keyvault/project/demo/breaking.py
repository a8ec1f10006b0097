"""Two rotations that go wrong: the provider begins to reject the new key while instances have it, once while
traffic still shifts and once when everybody has it already."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from keyvault.project.demo.cast import CAUTIOUS, WATCHFUL, DemoKey
from keyvault.project.demo.furnishing import current_version
from keyvault.project.demo.ledger import Failure
from keyvault.project.demo.results import Hit, RollbackResult, Told, unmet
from keyvault.project.demo.rotating import Follower, works
from keyvault.project.demo.scene import Scene
from keyvault.project.demo.trouble import DemoError
from rotation.facts import Stage

IN_SHIFT: Final = DemoKey("removit")
IN_MONITOR: Final = DemoKey("removit", "staging")
FROM_WEIGHT: Final = 25
_HOLDERS: Final = 2  # one instance alone must not decide for the others


def in_shift(scene: Scene) -> RollbackResult:
    """Break the new key on the way, at 25 %, and see what becomes of it. Raises ``DemoError``."""
    scene.say("b", f"{IN_SHIFT.name} is rotated once more; at {FROM_WEIGHT} % its new key will be rejected")
    follower = scene.rotate("b", IN_SHIFT, "the demo's rotation that goes wrong in shift", CAUTIOUS)
    scene.until_open(follower, f"{FROM_WEIGHT} % on the new key", lambda: _spread(scene, follower))
    return _break(scene, "b", follower, weight=follower.seen.weight)


def in_monitor(scene: Scene) -> tuple[Told, RollbackResult]:
    """Break the new key when it is current and everybody has it. Raises ``DemoError``."""
    follower = scene.rotate("c", IN_MONITOR, "the demo's rotation that goes wrong in monitor", WATCHFUL)
    scene.until_open(follower, "everybody on the new key in monitor", lambda: _promoted(scene, follower))
    promoted = current_version(scene.world.api, IN_MONITOR)
    result = _break(scene, "c", follower, weight=100)
    spared = scene.failed(IN_MONITOR, spoiled=result.bad_version)
    problems = result.problems() + unmet(
        {
            f"version {result.bad_version} was current when it began to be rejected": (
                promoted == result.bad_version
            ),
            f"no request failed with any other version ({spared} did)": spared == 0,
        }
    )
    return Told(
        f"{IN_MONITOR.name}: version {result.bad_version} was current and is rejected; version "
        f"{result.current_version} is current again after {result.seconds_to_weight_0} s "
        f"({result.failed} requests hit)",
        problems,
    ), result


def _spread(scene: Scene, follower: Follower) -> bool:
    """The weight is high enough, and two instances have the new key."""
    seen = follower.seen
    return seen.stage == Stage.SHIFT and seen.weight >= FROM_WEIGHT and follower.moved() >= _HOLDERS


def _promoted(scene: Scene, follower: Follower) -> bool:
    everybody = scene.ledger.instances(follower.key.name)
    return follower.seen.stage == Stage.MONITOR and follower.moved() == everybody


def _break(scene: Scene, chapter: str, follower: Follower, *, weight: int) -> RollbackResult:
    key, old, bad = follower.key, follower.seen.outgoing, follower.seen.incoming
    if old is None or bad is None:
        raise DemoError(f"The rotation of {key.name} does not tell its versions.")
    broken_at = _reject(scene, follower)
    scene.say(
        chapter,
        f"{key.provider} rejects version {bad} of {key.name} from now on, in {follower.seen.stage}; "
        f"instances that hold it: {follower.moved()}",
    )
    scene.until_over(follower)
    everyone_back = scene.await_return(key, bad)
    secret = scene.ledger.secret(key.name, old)
    hits = scene.ledger.failures(key.name, bad)
    result = RollbackResult(
        provider=key.provider,
        bad_version=bad,
        old_version=old,
        current_version=current_version(scene.world.api, key),
        stage=follower.seen.stage,
        weight_before=weight,
        hits=tuple(Hit(name, n) for name, n in sorted(Counter(hit.instance for hit in hits).items())),
        seconds_to_weight_0=_seconds(follower, hits, broken_at),
        old_key_works=secret is not None and works(scene.world, key.provider, secret),
        everyone_back=everyone_back,
        reason=follower.seen.rolled_back[1] if follower.seen.rolled_back else "",
    )
    scene.say(chapter, f"{follower.seen.stage}: {result.reason} Version {result.current_version} is current")
    return result


def _reject(scene: Scene, follower: Follower) -> float:
    """Let the provider refuse the incoming key, found by the label that Keyturn gave it there."""
    simulator = scene.world.simulators[follower.key.provider].control
    known = simulator.keys()
    made = [key for key in known if key.label.startswith(follower.label)]
    if not made:
        raise DemoError(f"{follower.key.provider} has no key with the label {follower.label}")
    simulator.set_fault(reject_key_id=made[-1].id)
    return time.time()


def _seconds(follower: Follower, hits: list[Failure], broken_at: float) -> float | None:
    """From the first rejection to weight 0. A probe of Keyturn's own may have been the first."""
    if follower.seen.rolled_back is None:
        return None
    ended = follower.seen.rolled_back[0].timestamp()
    first = hits[0].at if hits and hits[0].at <= ended else broken_at
    return round(max(0.0, ended - first), 2)
