"""Environment keys in memory: what a remote KEK wraps, opened once and kept for minutes.

1. An environment key is *fresh* for ``FRESH`` seconds after its provider opened it. A thread opens it again
   before that, so nobody waits for a provider.
2. While the provider is down, reading goes on with the key of before, for ``stale`` seconds after it was
   opened last. Then the key is forgotten, and so is everything that was decided with it (``generation``).
3. Writing needs a fresh key of a provider whose last answer was good. It fails closed.
4. What a provider answers is checked before it is used: another plaintext counts as no answer.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.remote import Place, RemoteKek, RemoteKind, WrappedKey, check_of

log = structlog.get_logger("keyturn.keks")

FRESH: Final = 300.0
AGAIN_AFTER: Final = 240.0  # seconds after which a fresh key is opened again
RETRY_AFTER: Final = 5.0  # seconds for which a provider that failed is left alone
_LOOK_EVERY: Final = 1.0
# A provider takes a few seconds at most; whoever waits longer than that for another's call gives up.
_WAIT: Final = 8.0
KEY_SIZE: Final = 32


class NotOpened(KeyServiceUnavailable):
    """The key has to be had from its provider first, and the event loop must not wait for that."""

    def __init__(self, open_it: Callable[[], object]) -> None:
        super().__init__("The environment key is not open yet.")
        self._open_it = open_it

    def open(self) -> bool:
        """Ask the provider; call it on a thread. Returns whether it gave the key."""
        try:
            self._open_it()
        except (KeyServiceUnavailable, KeyringError):
            return False  # logged where it failed, and the next attempt says why
        return True


@dataclass(frozen=True, slots=True)
class EnvironmentKeyState:
    """``age``: seconds since the provider opened it; None while it is not open. ``failure``: of the last
    attempt, "" if that was good."""

    environment: str
    kid: str
    provider: str
    age: float | None
    failure: str

    @property
    def stale(self) -> bool:
        """Whether it is in use although its provider does not give it any more."""
        return self.age is not None and (bool(self.failure) or self.age > FRESH)


@dataclass(eq=False)
class _Slot:
    place: Place
    wrapped: WrappedKey
    lock: threading.Lock = field(default_factory=threading.Lock)
    cipher: AESGCM | None = None
    opened_at: float = 0.0
    failed_at: float | None = None
    failure: str = ""


class EnvironmentKeys:
    """The environment keys of one process. ``stale``: seconds; ``clock``: monotonic seconds."""

    def __init__(
        self,
        connect: Callable[[RemoteKind], RemoteKek],
        *,
        stale: float,
        clock: Callable[[], float] = time.monotonic,
        background: bool = True,
    ) -> None:
        self._connect = connect
        self._stale = max(stale, FRESH)
        self._clock = clock
        self._slots: dict[Place, _Slot] = {}
        self._providers: dict[RemoteKind, RemoteKek] = {}
        self._background = background
        self._thread: threading.Thread | None = None
        self._wanted = threading.Lock()
        # Counts keys that were forgotten: whatever was decided with one of them must not be used any more.
        self.generation = 0

    # Use --------------------------------------------------------------------------------------------

    def for_reading(self, environment: str, kid: str, wrapped: WrappedKey) -> AESGCM:
        """The key, at most ``stale`` old. Raises ``KeyServiceUnavailable``."""
        slot = self._slots.get(Place(environment, kid))
        if slot is not None and (slot.wrapped is wrapped or slot.wrapped == wrapped):
            cipher = slot.cipher
            if cipher is not None and self._clock() - slot.opened_at <= self._stale:
                return cipher
        return self._opened(environment, kid, wrapped, self._stale)

    def for_writing(self, environment: str, kid: str, wrapped: WrappedKey) -> AESGCM:
        """The key, fresh, of a provider that works. Raises ``KeyServiceUnavailable``."""
        return self._opened(environment, kid, wrapped, FRESH)

    def make(self, provider: RemoteKind, key: str, place: Place) -> WrappedKey:
        """A new environment key, wrapped by the KEK ``key``. Raises as the others, and ``KeyringError``."""
        fresh = os.urandom(KEY_SIZE)
        remote = self._provider(provider)
        wrapped = WrappedKey(provider, key, remote.wrap(key, fresh, place), check_of(fresh))
        # A key that cannot be had again must not wrap anything.
        if not hmac.compare_digest(remote.unwrap(key, wrapped.wrapped, place), fresh):
            raise KeyServiceUnavailable(f"{provider}: {key} does not open what it wrapped.")
        return wrapped

    def hold(self, wanted: Mapping[Place, WrappedKey]) -> None:
        """These are the keys to have ready from now on; others are forgotten."""
        with self._wanted:
            for place in [place for place in self._slots if place not in wanted]:
                del self._slots[place]
        for place, wrapped in wanted.items():
            self._slot(place, wrapped)
        self._begin()

    def states(self) -> list[EnvironmentKeyState]:
        now = self._clock()
        return [
            EnvironmentKeyState(
                *slot.place,
                slot.wrapped.provider,
                None if slot.cipher is None else now - slot.opened_at,
                slot.failure,
            )
            for slot in tuple(self._slots.values())
        ]

    # Opening ----------------------------------------------------------------------------------------

    def _opened(self, environment: str, kid: str, wrapped: WrappedKey, oldest: float) -> AESGCM:
        slot = self._slot(Place(environment, kid), wrapped)
        found = self._usable(slot, oldest)
        if found is not None:
            return found
        self._leave_alone(slot)
        if _on_event_loop():
            raise NotOpened(lambda: self._opened(environment, kid, wrapped, oldest))
        if not slot.lock.acquire(timeout=_WAIT):
            raise KeyServiceUnavailable(f"The provider of the KEK {kid} does not answer.")
        try:
            # Another thread may have asked meanwhile.
            found = self._usable(slot, oldest)
            if found is None:
                self._leave_alone(slot)
                found = self._ask(slot)
        finally:
            slot.lock.release()
        self._begin()
        return found

    def _usable(self, slot: _Slot, oldest: float) -> AESGCM | None:
        if slot.cipher is None or self._clock() - slot.opened_at > oldest:
            return None
        if oldest <= FRESH and slot.failed_at is not None:
            return None
        return slot.cipher

    def _leave_alone(self, slot: _Slot) -> None:
        if slot.failed_at is not None and self._clock() - slot.failed_at < RETRY_AFTER:
            raise KeyServiceUnavailable(slot.failure)

    def _ask(self, slot: _Slot) -> AESGCM:
        """Open it at the provider; its lock is held."""
        asked_at = self._clock()
        try:
            wrapped = slot.wrapped
            opened = self._provider(wrapped.provider).unwrap(wrapped.key, wrapped.wrapped, slot.place)
            if len(opened) != KEY_SIZE or not hmac.compare_digest(check_of(opened), wrapped.check):
                raise KeyServiceUnavailable(f"{wrapped.provider}: {wrapped.key} answers with another key.")
        except (KeyServiceUnavailable, KeyringError) as error:
            self._note_failure(slot, str(error))
            raise
        if slot.failed_at is not None:
            log.info("kek provider back", environment=slot.place.environment, kid=slot.place.kid)
        slot.cipher, slot.opened_at = AESGCM(opened), asked_at
        slot.failed_at, slot.failure = None, ""
        return slot.cipher

    def _note_failure(self, slot: _Slot, reason: str) -> None:
        if slot.failed_at is None or slot.failure != reason:
            log.warning(
                "kek provider failed",
                environment=slot.place.environment,
                kid=slot.place.kid,
                provider=slot.wrapped.provider,
                reason=reason,
                reads="go on" if slot.cipher is not None else "fail",
            )
        slot.failed_at, slot.failure = self._clock(), reason

    def _slot(self, place: Place, wrapped: WrappedKey) -> _Slot:
        with self._wanted:
            slot = self._slots.get(place)
            if slot is None or slot.wrapped != wrapped:
                slot = self._slots[place] = _Slot(place, wrapped)
            return slot

    def _provider(self, kind: RemoteKind) -> RemoteKek:
        found = self._providers.get(kind)
        if found is None:
            found = self._providers[kind] = self._connect(kind)
        return found

    # In the background ------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Open what is due, forget what is too old. Called every second by the thread."""
        for slot in tuple(self._slots.values()):
            if self._due(slot) and slot.lock.acquire(blocking=False):
                try:
                    self._ask(slot)
                except (KeyServiceUnavailable, KeyringError):
                    pass  # noted and logged there, and tried again
                finally:
                    slot.lock.release()
            if slot.cipher is not None and self._clock() - slot.opened_at > self._stale:
                slot.cipher = None
                self.generation += 1
                log.error("environment key forgotten", environment=slot.place.environment, kid=slot.place.kid)

    def _due(self, slot: _Slot) -> bool:
        now = self._clock()
        if slot.failed_at is not None:
            return now - slot.failed_at >= RETRY_AFTER
        return slot.cipher is None or now - slot.opened_at >= AGAIN_AFTER

    def _begin(self) -> None:
        """Start the thread; it ends when nobody has this object any more."""
        with self._wanted:
            if not self._background or not self._slots or self._thread is not None:
                return
            self._thread = threading.Thread(
                target=_keep_fresh, args=(weakref.ref(self),), name="environment-keys", daemon=True
            )
            self._thread.start()


def _keep_fresh(of: weakref.ref[EnvironmentKeys]) -> None:
    nap = threading.Event()
    while (held := of()) is not None:
        try:
            held.refresh()
        except Exception:
            # Whatever a provider's library may raise: without this thread no key would stay fresh.
            log.exception("environment keys not refreshed")
        del held
        nap.wait(_LOOK_EVERY)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
