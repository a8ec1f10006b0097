"""Pure rules of custody: states of a version, labels of a key, and which version an instance gets.

Nothing here touches a database or a clock.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

BUCKETS = 10_000

Instance = tuple[str, str]  # the consumer's slug and the instance's name


class State(StrEnum):
    """Does the provider honour this version? (NIST SP 800-57, reduced.)"""

    REQUESTED = "requested"
    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"
    DESTROYED = "destroyed"


class Label(StrEnum):
    CURRENT = "current"
    PENDING = "pending"
    PREVIOUS = "previous"


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    LEAD = "lead"


class OrganisationRole(StrEnum):
    NONE = ""
    AUDITOR = "auditor"
    ADMIN = "admin"


VERBS = ("read", "versions", "report", "verify", "proxy")

# A version moves along these edges only; a database trigger holds the same table.
STATE_EDGES: frozenset[tuple[State, State]] = frozenset(
    {
        (State.REQUESTED, State.ACTIVE),
        (State.REQUESTED, State.DESTROYED),
        (State.ACTIVE, State.DISABLED),
        (State.DISABLED, State.ACTIVE),
        (State.ACTIVE, State.REVOKED),
        (State.DISABLED, State.REVOKED),
        (State.REVOKED, State.DESTROYED),
    }
)


def may_become(old: State, new: State) -> bool:
    return (old, new) in STATE_EDGES


@dataclass(frozen=True)
class Split:
    """How a key's consumers are divided while a version is pending.

    ``weight`` is 0-100. ``canaries`` are consumer slugs that always get the pending version once the
    weight is above 0; ``pinned`` ones only at 100.
    """

    weight: int
    salt: bytes
    canaries: Collection[str] = field(default=frozenset())
    pinned: Collection[str] = field(default=frozenset())


def bucket(salt: bytes, consumer: str, instance: str) -> int:
    """The instance's place in 0..9999, the same in every process and after every restart."""
    digest = hmac.digest(salt, f"{consumer}/{instance}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") % BUCKETS


def gets_pending(split: Split, consumer: str, instance: str) -> bool:
    """Whether this instance is given the pending version.

    Monotone in the weight: once true it stays true until the weight goes back to 0.
    """
    if split.weight <= 0:
        return False
    if split.weight >= 100 or consumer in split.canaries:
        return True
    if consumer in split.pinned:
        return False
    return bucket(split.salt, consumer, instance) < split.weight * (BUCKETS // 100)


def choose(split: Split | None, consumer: str, instance: str, *, holds_outgoing_jobs: bool) -> Label:
    """Which label answers this instance.

    ``split`` is None while no version is pending. ``holds_outgoing_jobs`` says that the provider ties
    jobs to keys and that this instance still has jobs open under the outgoing version: it keeps that
    version, because the provider would answer 404 to any other key.
    """
    if split is None:
        return Label.PREVIOUS if holds_outgoing_jobs else Label.CURRENT
    if holds_outgoing_jobs or not gets_pending(split, consumer, instance):
        return Label.CURRENT
    return Label.PENDING
