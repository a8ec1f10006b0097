"""Environment keys in memory, by a clock of the test's own: fresh, stale, forgotten, and had again."""

from __future__ import annotations

import asyncio
import base64
import threading
from dataclasses import dataclass

import pytest

from keyvault.crypto.environment_keys import AGAIN_AFTER, FRESH, RETRY_AFTER, EnvironmentKeys, NotOpened
from keyvault.crypto.errors import KeyServiceUnavailable
from keyvault.crypto.remote import Place, WrappedKey
from tests.integration.processes import wait_for

PROD = Place("prod", "prod-1")
STALE = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Switch:
    """A provider in this process that can be switched off; counts how often it is asked."""

    def __init__(self) -> None:
        self.reason = ""
        self.asked = 0

    def wrap(self, key: str, plaintext: bytes, place: Place) -> str:
        return base64.b64encode(plaintext).decode()

    def unwrap(self, key: str, wrapped: str, place: Place) -> bytes:
        self.asked += 1
        if self.reason:
            raise KeyServiceUnavailable(self.reason)
        return base64.b64decode(wrapped)


@dataclass
class Scene:
    clock: Clock
    switch: Switch
    held: EnvironmentKeys
    wrapped: WrappedKey

    def reads(self) -> bool:
        try:
            self.held.for_reading(*PROD, self.wrapped)
        except KeyServiceUnavailable:
            return False
        return True

    def writes(self) -> bool:
        try:
            self.held.for_writing(*PROD, self.wrapped)
        except KeyServiceUnavailable:
            return False
        return True

    def after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.held.refresh()


@pytest.fixture
def scene() -> Scene:
    clock, switch = Clock(), Switch()
    held = EnvironmentKeys(lambda kind: switch, stale=STALE, clock=clock, background=False)
    wrapped = held.make("transit", "keyturn-prod", PROD)
    held.hold({PROD: wrapped})
    held.refresh()
    switch.asked = 0
    return Scene(clock, switch, held, wrapped)


def test_a_provider_is_asked_once_in_minutes_whatever_is_read(scene: Scene) -> None:
    for _ in range(60):
        scene.after(10)
        assert all(scene.reads() and scene.writes() for _ in range(100))
    assert scene.switch.asked == 2  # after 240 s and 480 s


def test_a_key_is_opened_again_before_it_is_five_minutes_old(scene: Scene) -> None:
    for _ in range(2000):
        scene.after(1)
        age = scene.held.states()[0].age
        assert age is not None
        assert age <= FRESH


def test_reading_goes_on_up_to_the_limit_and_writing_does_not(scene: Scene) -> None:
    scene.after(100)
    scene.switch.reason = "down"
    scene.after(139)
    assert scene.writes()  # nobody knows yet
    scene.after(1)
    assert not scene.writes()
    assert scene.reads()
    assert scene.held.states()[0].stale
    while scene.clock.now < 1_000 + STALE:
        assert scene.reads()
        assert not scene.writes()
        scene.after(7)
    generation = scene.held.generation
    scene.after(7)
    assert not scene.reads()
    assert not scene.writes()
    assert scene.held.generation >= generation
    assert scene.held.generation == 1
    assert scene.held.states()[0].age is None
    scene.switch.reason = ""
    scene.after(RETRY_AFTER)
    assert scene.reads()
    assert scene.writes()
    assert not scene.held.states()[0].stale


def test_reading_stops_at_the_limit_even_if_nobody_has_looked_since(scene: Scene) -> None:
    scene.switch.reason = "down"
    scene.clock.now += STALE
    assert scene.reads()
    scene.clock.now += 1
    assert not scene.reads()


def test_writing_comes_back_with_the_provider(scene: Scene) -> None:
    scene.switch.reason = "down"
    scene.after(AGAIN_AFTER)
    assert not scene.writes()
    scene.switch.reason = ""
    assert not scene.writes()  # it is left alone for a moment
    scene.clock.now += RETRY_AFTER
    assert scene.writes()


def test_a_provider_that_failed_is_left_alone_for_a_moment(scene: Scene) -> None:
    scene.switch.reason = "down"
    scene.clock.now += STALE + 1
    assert not any(scene.reads() for _ in range(100))
    assert scene.switch.asked == 1


def test_many_who_need_a_closed_key_ask_once(scene: Scene) -> None:
    held = EnvironmentKeys(lambda kind: scene.switch, stale=STALE, background=False)
    threads = [
        threading.Thread(target=held.for_reading, args=(*PROD, scene.wrapped), daemon=True) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scene.switch.asked == 1


def test_many_who_need_a_key_of_a_provider_that_is_down_ask_once(scene: Scene) -> None:
    scene.clock.now += STALE + 1
    gate = threading.Barrier(10)

    def fail(key: str, wrapped: str, place: Place) -> bytes:
        scene.switch.asked += 1
        gate.wait(60)  # until all of them have come
        raise KeyServiceUnavailable("down")

    def ask(first: bool) -> None:
        if not first:
            gate.wait(60)
        assert not scene.reads()

    scene.switch.unwrap = fail  # type: ignore[method-assign]
    threads = [threading.Thread(target=ask, args=(n == 0,), daemon=True) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert scene.switch.asked == 1


def test_an_event_loop_is_told_at_once_that_a_provider_is_down(scene: Scene) -> None:
    scene.switch.reason = "down"
    scene.clock.now += STALE + 1
    assert not scene.reads()

    async def ask() -> None:
        with pytest.raises(KeyServiceUnavailable, match="down"):
            scene.held.for_reading(*PROD, scene.wrapped)

    asyncio.run(ask())


def test_an_event_loop_never_waits_for_a_provider(scene: Scene) -> None:
    held = EnvironmentKeys(lambda kind: scene.switch, stale=STALE, background=False)

    async def ask() -> bool:
        with pytest.raises(NotOpened) as caught:
            held.for_reading(*PROD, scene.wrapped)
        assert scene.switch.asked == 0
        opened = await asyncio.to_thread(caught.value.open)
        held.for_reading(*PROD, scene.wrapped)
        return opened

    assert asyncio.run(ask())
    assert scene.switch.asked == 1


def test_the_thread_keeps_keys_open_and_ends_with_them() -> None:
    switch, clock = Switch(), Clock()
    before = set(threading.enumerate())  # a test before may have left one of these
    held = EnvironmentKeys(lambda kind: switch, stale=STALE, clock=clock)
    held.hold({PROD: held.make("transit", "keyturn-prod", PROD)})
    [thread] = [one for one in set(threading.enumerate()) - before if one.name == "environment-keys"]
    wait_for(lambda: switch.asked == 2, "the key is opened")
    clock.now += AGAIN_AFTER
    wait_for(lambda: switch.asked == 3, "the key is opened again")
    del held
    thread.join(60)
    assert not thread.is_alive()


def test_keys_that_the_document_no_longer_names_are_forgotten(scene: Scene) -> None:
    scene.held.hold({})
    assert scene.held.states() == []
