"""Death at every named point: ``python -m tests.crash.points``. Prints what was counted as JSON.

Between the intent and the commit of its outcome a worker passes named points. A fork of this process lives as
in ``rounds`` and is killed by itself at the first point, in the first circumstances (which operation, which
action, which stage), in which nobody has died yet. The next one goes on from there. It ends when a whole
rotation comes through without a death: then somebody has died everywhere it leads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

# First: it prepares Django for what is imported after it.
from tests.crash import rounds  # isort: skip

from django.db import connection

from keyvault import audit
from rotation import engine, operations
from rotation.models import Rotation
from tests.stories.world import World

MOST_LIVES = 400


@dataclass(frozen=True)
class Point:
    """Before or after one function. ``about`` tells the circumstances from its arguments."""

    name: str
    module: ModuleType
    function: str
    after: bool
    about: Callable[..., str]


def _operation(operation: Any, *_: Any) -> str:
    return f"{operation.kind} {operation.side}"


def _action(rotation: Any, action: Any, *_: Any) -> str:
    detail = getattr(action, "kind", None) or getattr(action, "stage", None) or ""
    return f"{type(action).__name__} {detail} in {rotation.stage}"


def _settled(rotation: Any, operation: Any, *_: Any) -> str:
    return _operation(operation)


def _stage(rotation: Any, *_: Any) -> str:
    return str(rotation.stage)


def _of_id(rotation_id: Any, *_: Any) -> str:
    return str(Rotation.objects.values_list("stage", flat=True).get(pk=rotation_id))


POINTS = (
    Point("claimed, not called", operations, "call", False, _operation),
    Point("called, not settled", operations, "call", True, _operation),
    Point("settling, nothing written", operations, "_apply", False, _settled),
    Point("result written, not committed", operations, "_apply", True, _settled),
    Point("decided, not executed", engine, "_execute", False, _action),
    Point("executed, not committed", engine, "_execute", True, _action),
    Point("intent written, not committed", engine, "_call", True, _action),
    Point("audited, not committed", audit, "record", True, lambda name, *_: name),
    Point("all written, not committed", engine, "advance_locked", True, _stage),
    Point("about to look", engine, "advance", False, _of_id),
    Point("committed", engine, "advance", True, _of_id),
)


class Fate:
    """Kills this process at the first point where nobody died before, and says which over a pipe."""

    def __init__(self, died: set[str], pipe: int) -> None:
        self._died, self._pipe = died, pipe
        for point in POINTS:
            setattr(point.module, point.function, self._around(point))

    def _around(self, point: Point) -> Callable[..., Any]:
        plain = getattr(point.module, point.function)

        @wraps(plain)
        def watched(*given: Any, **named: Any) -> Any:
            if not point.after:
                self._pass(point, *given)
            result = plain(*given, **named)
            if point.after:
                self._pass(point, *given)
            return result

        return watched

    def _pass(self, point: Point, *given: Any) -> None:
        place = f"{point.name}: {point.about(*given)}"
        if place not in self._died:
            os.write(self._pipe, place.encode())
            os.kill(os.getpid(), signal.SIGKILL)


def live(world: World, died: set[str]) -> str:
    """One life, until it ends at a new point or a whole rotation came through. Returns the point or ""."""
    read, write = os.pipe()
    connection.close()
    child = os.fork()
    if child == 0:
        os.close(1)
        status = 3
        try:
            Fate(died, write)
            _through_a_rotation(world)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        place = told.read().decode()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("a life ended by itself")
    rounds.catch_up(world)
    return place


def _through_a_rotation(world: World) -> None:
    ended = Rotation.objects.filter(stage="succeeded").count()
    while Rotation.objects.filter(stage="succeeded").count() < ended + 2:
        rounds.step(world)


def main() -> int:
    world, process = rounds.begin()
    died: set[str] = set()
    problems: list[str] = []
    try:
        for _ in range(MOST_LIVES):
            place = live(world, died)
            problems += [f"after {place}: {problem}" for problem in rounds.check_now(world)]
            if not place:
                break
            died.add(place)
        else:
            problems.append("no life came through")
        world.run(lambda: rounds.at_rest(world), most=600)
        problems += rounds.check_end(world)
    finally:
        process.terminate()
        process.wait(timeout=60)
    counted = Counter(place.partition(":")[0] for place in died)
    sys.stdout.write(json.dumps({"deaths": len(died), "points": counted, "problems": problems}) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
