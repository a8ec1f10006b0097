"""What became of the items of an emergency run, and what of it is still honoured. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from keyvault.domain import State
from rotation.models import EmergencyItem

RESULTS = ("waiting", "running", "attention", "done", "failed", "refused", "skipped")
_DEAD = (State.REVOKED, State.DESTROYED)


def result_of(item: EmergencyItem) -> str:
    """One of ``RESULTS``: what became of an item. The rotation and the version tell, nothing is copied."""
    if item.state != EmergencyItem.STARTED:
        return item.state
    if item.token_id is not None or item.rotation is None:
        return "done"
    rotation = item.rotation
    if rotation.attention:
        return "attention"
    if rotation.is_open:
        return "running"
    if item.version is not None and item.version.state in _DEAD:
        return "done"
    return "running" if rotation.check_at is not None else "failed"


def progress(items: Iterable[EmergencyItem]) -> dict[str, int]:
    """How many items have each result."""
    counted = Counter(result_of(item) for item in items)
    return {result: counted[result] for result in RESULTS}


def is_left(item: EmergencyItem) -> bool:
    """Whether the leaked secret itself still works: the provider honours the version, or we the token."""
    if item.token is not None:
        return item.token.revoked_at is None
    return item.version is not None and item.version.state not in _DEAD
