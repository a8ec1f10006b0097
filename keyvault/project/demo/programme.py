"""The chapters of the demo: what each of them promises, and how they are played side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from keyvault.project.demo import breaking, holding, leaking, losing
from keyvault.project.demo.cast import DemoKey
from keyvault.project.demo.results import ChapterResult, RollbackResult, Told
from keyvault.project.demo.rotating import Follower
from keyvault.project.demo.scene import Scene
from keyvault.project.demo.trouble import DemoError

CHAPTERS: Final[Mapping[str, str]] = {
    "a": "four rotations unnoticed",
    "b": "rollback in shift",
    "c": "rollback in monitor",
    "d": "straggler held",
    "e": "lost answer reconciled",
    "f": "emergency",
}
_SHOW_EVERY: Final = 0.5


class Programme:
    """Plays every chapter once, each in a thread of its own. Their keys are different ones, but for the one
    that is broken in shift: it waits until it was rotated unnoticed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.unnoticed: list[Follower] = []
        self.rollbacks: dict[str, RollbackResult] = {}  # by chapter
        self.begun = time.monotonic()
        self._pool = ThreadPoolExecutor(len(CHAPTERS), thread_name_prefix="chapter")

    def close(self) -> None:
        """Wait for chapters that were stopped with the scene."""
        self._pool.shutdown(cancel_futures=True)

    def play(self, check: Callable[[], None]) -> list[ChapterResult]:
        """All chapters, in the order of their letters. ``check`` is called again and again and may raise."""
        alone = threading.Event()
        playing = {"e": self._start("e", lambda: losing.lost_answer(self.scene, alone))}
        self.scene.until("the lost answer", lambda: alone.is_set() or playing["e"].done(), every=0.1)
        playing["a"] = self._start("a", self._unnoticed)
        playing["b"] = self._start("b", self._in_shift, after=lambda: self._await_free(playing["a"]))
        playing["c"] = self._start("c", self._in_monitor)
        playing["d"] = self._start("d", lambda: holding.straggler(self.scene))
        playing["f"] = self._start("f", lambda: leaking.emergency(self.scene))
        check()
        while not all(chapter.done() for chapter in playing.values()):
            self._show()
            self.scene.stop.wait(_SHOW_EVERY)
            check()
        self._show()
        return [playing[letter].result() for letter in CHAPTERS]

    def followers(self) -> list[Follower]:
        """Every rotation that was started, chapter by chapter."""
        return sorted(self.scene.followers, key=lambda follower: follower.chapter)

    def spoiled(self) -> set[tuple[str, int]]:
        """Keys and versions that were made bad on purpose."""
        keys = {"b": breaking.IN_SHIFT, "c": breaking.IN_MONITOR}
        return {(keys[chapter].name, broken.bad_version) for chapter, broken in self.rollbacks.items()}

    def _start(
        self, letter: str, chapter: Callable[[], Told], after: Callable[[], None] = lambda: None
    ) -> Future[ChapterResult]:
        return self._pool.submit(self._play, letter, chapter, after)

    def _play(self, letter: str, chapter: Callable[[], Told], after: Callable[[], None]) -> ChapterResult:
        begun = time.monotonic()
        try:
            after()
            begun = time.monotonic()
            told = chapter()
        except DemoError as error:
            told = Told("not shown", (str(error),))
        result = ChapterResult(letter, CHAPTERS[letter], time.monotonic() - begun, told)
        if not self.scene.stop.is_set():
            self.scene.say(letter, f"{result.name}: {'shown' if result.shown else 'NOT SHOWN'}")
        return result

    def _show(self) -> None:
        rows = [follower.row() for follower in self.followers()]
        self.scene.screen.show(rows, time.monotonic() - self.begun)

    def _unnoticed(self) -> Told:
        scene = self.scene
        scene.say("a", "the prod keys of all four providers are rotated at the same time")
        for slug in scene.world.simulators:
            self.unnoticed.append(scene.rotate("a", DemoKey(slug), "the demo"))
        scene.until_over(*self.unnoticed)
        return Told("the prod keys of all four providers were replaced under load")

    def _await_free(self, unnoticed: Future[ChapterResult]) -> None:
        def free() -> bool:
            mine = [one for one in self.unnoticed if one.key == breaking.IN_SHIFT]
            return unnoticed.done() or any(one.seen.over for one in mine)

        self.scene.until(f"{breaking.IN_SHIFT.name}: free for the next rotation", free)

    def _in_shift(self) -> Told:
        broken = self.rollbacks["b"] = breaking.in_shift(self.scene)
        return Told(
            f"{breaking.IN_SHIFT.name}: version {broken.bad_version} was rejected at {broken.weight_before} "
            f"%; version {broken.current_version} is current again after {broken.seconds_to_weight_0} s "
            f"({broken.failed} requests hit)",
            broken.problems(),
        )

    def _in_monitor(self) -> Told:
        told, self.rollbacks["c"] = breaking.in_monitor(self.scene)
        return told
