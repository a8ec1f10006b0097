"""What a simulated provider really knows: its keys, whether it honours them, and every request it saw."""

import hashlib
import secrets
import string
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from keyvault.crypto.secret import Secret
from rotation.simulators.faults import Faults

KeyState = Literal["live", "disabled", "revoked"]

_ALPHABET = string.ascii_letters + string.digits


class QuotaFull(Exception):
    """The account holds as many keys as it may."""


class NoPlan(Exception):
    """The account's plan has no API access."""


class NoSuchKey(LookupError):
    """No key has that id, or it is revoked."""


class CreatedKey(NamedTuple):
    """What the account page shows after "generate key"."""

    value: Secret
    id: str


@dataclass(frozen=True)
class KeyView:
    """One key from outside. `live`: the provider honours it right now. Times are Unix seconds."""

    id: str
    label: str
    state: KeyState
    live: bool
    created_at: float
    last_used_at: float | None


@dataclass
class Key:
    """One key from inside."""

    id: str
    label: str
    secret: Secret
    created_at: float
    state: KeyState = "live"
    honoured_from: float = 0.0  # when creating takes effect
    refused_from: float | None = None  # when revoking or disabling takes effect
    last_used_at: float | None = None
    statuses: Counter[int] = field(default_factory=Counter)  # 0: no answer was given
    after_refusal: int = 0  # requests that came when the key was no longer honoured
    bucket: float = 0.0
    bucket_at: float | None = None


class Truth:
    """Thread-safe. `clock` gives Unix seconds."""

    def __init__(self, key_prefix: str, clock: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self.faults = Faults()
        self.clock = clock
        self._key_prefix = key_prefix
        self._keys: dict[str, Key] = {}
        self._by_digest: dict[bytes, Key] = {}
        self._strangers: Counter[str] = Counter()
        self._error_debt: dict[str, float] = {}

    def create(self, label: str) -> Key:
        """Make a key. Raises QuotaFull and NoPlan."""
        with self.lock:
            if self.faults.plan_lapsed:
                raise NoPlan
            held = [key for key in self._keys.values() if key.state != "revoked"]
            if self.faults.repeats and held:
                return held[-1]
            if self.faults.max_keys is not None and len(held) >= self.faults.max_keys:
                raise QuotaFull
            if self.faults.replaces:
                for key in held:
                    self._end(key, "revoked", delay=0.0)
            text = self._key_prefix + "".join(secrets.choice(_ALPHABET) for _ in range(40))
            now = self.clock()
            key = Key(f"key_{secrets.token_hex(8)}", label, Secret(text), now)
            key.honoured_from = now + self.faults.issue_delay
            self._keys[key.id] = key
            self._by_digest[_digest(text)] = key
            return key

    def close(self) -> None:
        """The account is closed and opened anew: no keys, no faults, nothing seen."""
        with self.lock:
            self.faults = Faults()
            for kept in (self._keys, self._by_digest, self._strangers, self._error_debt):
                kept.clear()

    def adopt(self, key_id: str, label: str, secret: Secret) -> None:
        """A key that the account has had for longer than this simulator runs."""
        with self.lock:
            self._keys[key_id] = key = Key(key_id, label, secret, self.clock())
            self._by_digest[_digest(secret.expose())] = key

    def lose_next_answer(self, fault: Literal["lose_create_answers", "lose_revoke_answers"]) -> bool:
        """Is the answer to this call to be lost? Counts down."""
        with self.lock:
            left: int = getattr(self.faults, fault)
            if left > 0:
                self.faults = self.faults.merged({fault: left - 1})
            return left > 0

    def revoke(self, key_id: str) -> None:
        """End a key for good, at once or after `revoke_delay`. Raises NoSuchKey, also for a revoked key."""
        with self.lock:
            self._end(self._held(key_id), "revoked", delay=self.faults.revoke_delay)

    def disable(self, key_id: str) -> None:
        """Refuse a key for now. Raises NoSuchKey."""
        with self.lock:
            self._end(self._held(key_id), "disabled", delay=0.0)

    def enable(self, key_id: str) -> None:
        """Undo `disable`. Raises NoSuchKey."""
        with self.lock:
            key = self._held(key_id)
            key.state, key.refused_from = "live", None

    def get(self, key_id: str) -> Key:
        """A key that is not revoked. Raises NoSuchKey."""
        with self.lock:
            return self._held(key_id)

    def find(self, text: str) -> Key | None:
        """The key of this text, whatever its state."""
        with self.lock:
            return self._by_digest.get(_digest(text))

    def find_by_id(self, key_id: str) -> Key | None:
        """The key with this id, whatever its state."""
        with self.lock:
            return self._keys.get(key_id)

    def honoured(self, key: Key) -> bool:
        """Does the provider accept this key right now (its plan aside)?"""
        with self.lock:
            now = self.clock()
            refused = now < key.honoured_from or (key.refused_from is not None and now >= key.refused_from)
            return not refused and key.id not in self.faults.reject_keys

    def within_rate(self, key: Key, rate: float) -> bool:
        """Take one request from the key's bucket, which holds one second's worth."""
        with self.lock:
            now = self.clock()
            elapsed = now - key.bucket_at if key.bucket_at is not None else 0.0
            level = (
                min(max(rate, 1.0), key.bucket + elapsed * rate)
                if key.bucket_at is not None
                else max(rate, 1.0)
            )
            key.bucket_at = now
            key.bucket = level - 1.0 if level >= 1.0 else level
            return level >= 1.0

    def error_is_due(self, plane: str) -> bool:
        """Spread errors evenly: with a rate of 0.25 every fourth request fails."""
        with self.lock:
            debt = self._error_debt.get(plane, 0.0) + self.faults.error_rate
            due = debt >= 1.0 - 1e-9
            self._error_debt[plane] = debt - 1.0 if due else debt
            return due

    def record(self, key: Key | None, *, presented: bool, status: int) -> None:
        """Count one request and its answer (0: none was given)."""
        with self.lock:
            if key is None:
                self._strangers["unknown_key" if presented else "no_key"] += 1
                return
            key.statuses[status] += 1
            key.last_used_at = self.clock()
            if key.refused_from is not None and key.last_used_at >= key.refused_from:
                key.after_refusal += 1

    def views(self) -> list[KeyView]:
        """Every key ever made, oldest first."""
        with self.lock:
            return [
                KeyView(
                    id=key.id,
                    label=key.label,
                    state=key.state,
                    live=self.honoured(key) and not self.faults.plan_lapsed,
                    created_at=key.created_at,
                    last_used_at=key.last_used_at,
                )
                for key in self._keys.values()
            ]

    def counters(self) -> dict[str, object]:
        """Requests per key by status and by class, and those without a known key.

        `{"total", "no_key", "unknown_key", "keys": {id: {"requests", "2xx", "4xx", "5xx", "cut", "statuses",
        "after_refusal", "last_used_at"}}}`
        """
        with self.lock:
            keys = {key.id: _counted(key) for key in self._keys.values()}
            known = sum(key.statuses.total() for key in self._keys.values())
            return {
                "total": known + self._strangers.total(),
                "no_key": self._strangers["no_key"],
                "unknown_key": self._strangers["unknown_key"],
                "keys": keys,
            }

    def _held(self, key_id: str) -> Key:
        key = self._keys.get(key_id)
        if key is None or key.state == "revoked":
            raise NoSuchKey(key_id)
        return key

    def _end(self, key: Key, state: KeyState, *, delay: float) -> None:
        key.state = state
        moment = self.clock() + delay
        key.refused_from = moment if key.refused_from is None else min(key.refused_from, moment)


def _counted(key: Key) -> dict[str, object]:
    classes = {
        name: sum(count for status, count in key.statuses.items() if status // 100 == first)
        for name, first in (("2xx", 2), ("4xx", 4), ("5xx", 5), ("cut", 0))
    }
    return {
        "requests": key.statuses.total(),
        **classes,
        "statuses": {str(status): count for status, count in sorted(key.statuses.items())},
        "after_refusal": key.after_refusal,
        "last_used_at": key.last_used_at,
    }


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
