"""What becomes of chapters that cannot show what they promise, and of those that are stopped."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from keyvault.crypto.secret import Secret
from keyvault.project.demo.cast import STAGING_CONSUMERS, DemoKey
from keyvault.project.demo.furnishing import World, staging_instances
from keyvault.project.demo.instances import Consumer
from keyvault.project.demo.ledger import Failure, Ledger
from keyvault.project.demo.managing import Api
from keyvault.project.demo.pace import Pace
from keyvault.project.demo.programme import CHAPTERS, Programme
from keyvault.project.demo.scene import Scene
from keyvault.project.demo.screen import Screen
from keyvault.project.demo.trouble import DemoError
from rotation.simulators import SIMULATORS, running

pytestmark = pytest.mark.once


@pytest.fixture
def heard() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def scene(heard: io.StringIO) -> Iterator[Scene]:
    """Providers that run, consumers that have not begun, and a Keyturn that does not answer."""
    stop, ledger = threading.Event(), Ledger()
    with ExitStack() as stack:
        simulators = {slug: stack.enter_context(running(slug)) for slug in SIMULATORS}
        staging = tuple(Consumer(slug, Secret("ktc_staging_x")) for slug in STAGING_CONSUMERS)
        api = Api("http://127.0.0.1:9", Secret("ktu_x"))
        world = World(api, Pace(), simulators, consumers=(), staging_consumers=staging)
        yield Scene(world, ledger, Screen(heard), stop, staging_instances(world, ledger, stop))


@pytest.fixture
def programme(scene: Scene) -> Iterator[Programme]:
    made = Programme(scene)
    yield made
    scene.stop.set()
    made.close()


def test_every_chapter_that_is_not_shown_is_named_with_its_reason(
    programme: Programme, heard: io.StringIO
) -> None:
    results = programme.play(lambda: None)
    assert [result.letter for result in results] == list(CHAPTERS)
    for result in results:
        assert not result.shown
        assert f"({result.letter}) {result.name}: NOT SHOWN" in heard.getvalue()
        (problem,) = result.problems()
        assert problem.startswith(f"chapter ({result.letter}) {result.name}: ")


def test_a_provider_is_left_without_the_fault_of_a_chapter_that_failed(programme: Programme) -> None:
    programme.play(lambda: None)
    simulator = programme.scene.world.simulators["removebgvideo"].control
    assert simulator.faults()["lose_create_answers"] == 0
    assert programme.scene.staging[-1].account(DemoKey("backgrounderase", "staging")).asks


def test_what_the_demo_cannot_go_on_without_ends_the_play_at_once(programme: Programme) -> None:
    def check() -> None:
        raise DemoError("Keyturn has stopped")

    with pytest.raises(DemoError, match="Keyturn has stopped"):
        programme.play(check)


def test_a_wait_ends_when_the_demo_is_stopped(scene: Scene) -> None:
    threading.Timer(0.05, scene.stop.set).start()
    begun = time.monotonic()
    with pytest.raises(DemoError, match="something: stopped before"):
        scene.until("something", lambda: False, every=600.0)
    assert time.monotonic() - begun < 60


def test_requests_with_a_spoiled_version_do_not_count_against_a_chapter(scene: Scene) -> None:
    key = DemoKey("removit", "staging")
    for version in (1, 2, 2):
        failure = Failure(key.name, "web-shop/web-shop-staging", version, "key", "auth_invalid", 401, 1.0)
        scene.ledger.failed(failure)
    assert (scene.failed(key), scene.failed(key, spoiled=2)) == (3, 1)
