"""The rotation that goes wrong: the provider begins to reject the new key while some instances have it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from keyvault.project.demo.furnishing import World, current_version
from keyvault.project.demo.ledger import Failure, Ledger
from keyvault.project.demo.results import Hit, RollbackResult
from keyvault.project.demo.rotating import Follower, follow, works
from keyvault.project.demo.screen import Screen
from keyvault.project.demo.trouble import DemoError
from rotation.facts import Stage

PROVIDER: Final = "removit"
FROM_WEIGHT: Final = 25
_LOOK_EVERY: Final = 0.3


def go_wrong(world: World, ledger: Ledger, screen: Screen) -> RollbackResult:
    """Start a rotation, break its new key at 25 %, and see what becomes of it. Raises ``DemoError``."""
    follower = Follower(world, ledger, PROVIDER, "the demo's rotation that goes wrong")
    begun = time.monotonic()
    while not _spread(follower, ledger, world.pace.refresh):
        screen.show([follower.row()], time.monotonic() - begun)
        _must_go_on(follower, time.monotonic() - begun, world.pace.patience)
        time.sleep(_LOOK_EVERY)
        follower.look()
    weight = follower.seen.weight
    old, bad = follower.seen.outgoing, follower.seen.incoming
    if old is None or bad is None:
        raise DemoError(f"The rotation of {PROVIDER} does not tell its versions.")
    broken_at = _reject(world, follower)
    screen.say(f"{PROVIDER} rejects version {bad} from now on; instances that hold it: {follower.moved()}")
    follow([follower], screen, world.pace.patience)
    everyone_back = _await_return(world, ledger, bad)
    secret = ledger.secret(PROVIDER, old)
    hits = ledger.failures(PROVIDER, bad)
    return RollbackResult(
        provider=PROVIDER,
        bad_version=bad,
        old_version=old,
        current_version=current_version(world.api, PROVIDER),
        stage=follower.seen.stage,
        weight_before=weight,
        hits=tuple(Hit(name, n) for name, n in sorted(Counter(hit.instance for hit in hits).items())),
        seconds_to_weight_0=_seconds(follower, hits, broken_at),
        old_key_works=secret is not None and works(world, PROVIDER, secret),
        everyone_back=everyone_back,
        reason=follower.seen.rolled_back[1] if follower.seen.rolled_back else "",
    )


def _spread(follower: Follower, ledger: Ledger, refresh: float) -> bool:
    """The weight is high enough, and two instances have the new key; one, when no more come in time."""
    bad = follower.seen.incoming
    high = [at.timestamp() for at, weight in follower.seen.weights if weight >= FROM_WEIGHT]
    if follower.seen.stage != Stage.SHIFT or not high or bad is None:
        return False
    holders = len(ledger.holders(PROVIDER, bad))
    return holders > 1 or (holders == 1 and time.time() - high[0] > refresh)


def _must_go_on(follower: Follower, passed: float, patience: float) -> None:
    seen = follower.seen
    early = seen.stage in (Stage.REQUESTED, Stage.DEPLOY, Stage.SHIFT) and not seen.attention
    if not early or passed > patience:
        raise DemoError(
            f"The second rotation of {PROVIDER} did not come to {FROM_WEIGHT} %: it is in {seen.stage} "
            f"{seen.attention} {seen.waiting_for}".rstrip()
        )


def _reject(world: World, follower: Follower) -> float:
    """Let the provider refuse the incoming key, found by the label that Keyturn gave it there."""
    simulator = world.simulators[PROVIDER].control
    label = f"keyturn-{follower.seen.id.replace('-', '')[:20]}"
    keys = simulator.keys()
    made = [key for key in keys if key.label.startswith(label)]
    if not made:
        raise DemoError(f"{PROVIDER} has no key with the label {label}")
    simulator.set_fault(reject_key_id=made[-1].id)
    return time.time()


def _seconds(follower: Follower, hits: list[Failure], broken_at: float) -> float | None:
    """From the first rejection to weight 0. A probe of Keyturn's own may have been the first."""
    if follower.seen.rolled_back is None:
        return None
    ended = follower.seen.rolled_back[0].timestamp()
    first = hits[0].at if hits and hits[0].at <= ended else broken_at
    return round(max(0.0, ended - first), 2)


def _await_return(world: World, ledger: Ledger, bad: int) -> bool:
    """Wait until no instance holds the bad version; each asks again within the refresh time."""
    deadline = time.monotonic() + 10 * world.pace.refresh
    while ledger.holders(PROVIDER, bad):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
