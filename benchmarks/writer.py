"""Changes that delivery must notice, so many commits a second: ``python -m benchmarks.writer``.

It reads lines from standard input: ``go COMMITS_A_SECOND KEYS_PER_COMMIT`` and ``stop``, and answers
each with one line of JSON. What it changes is the weight of keys that are in the middle of a shift.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import cycle, islice
from typing import IO, Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
django.setup()

from django.db import connection  # noqa: E402

from keyvault.integrity import sign  # noqa: E402
from keyvault.models import Key  # noqa: E402

WEIGHTS = (25, 50)
_CHANGE = """
UPDATE keyvault_key AS key SET weight = fresh.weight, mac = fresh.mac
  FROM unnest(%s::uuid[], %s::int[], %s::bytea[]) AS fresh (id, weight, mac) WHERE key.id = fresh.id
"""


class Changes:
    """Every shifting key with two weights, signed in advance; each commit moves the next ones on."""

    def __init__(self) -> None:
        self._rows = list(Key.objects.filter(pending__isnull=False).order_by("id"))
        self._macs = [[_signed(row, weight) for row in self._rows] for weight in WEIGHTS]
        places = range(len(self._rows))
        self._turns = cycle([(place, turn) for turn in (1, 0) for place in places])

    @property
    def keys(self) -> int:
        return len(self._rows)

    def commit(self, count: int) -> None:
        turns = list(islice(self._turns, count))
        ids = [self._rows[place].id for place, _ in turns]
        weights = [WEIGHTS[turn] for _, turn in turns]
        macs = [self._macs[turn][place] for place, turn in turns]
        with connection.cursor() as cursor:
            cursor.execute(_CHANGE, [ids, weights, macs])
            if cursor.rowcount != count:
                raise RuntimeError(f"{cursor.rowcount} of {count} keys changed")


def _signed(row: Key, weight: int) -> bytes:
    row.weight = weight
    sign(row)
    return bytes(row.mac)


class Load:
    """Commits in a thread of its own until it is stopped. Nothing that goes wrong there is lost."""

    def __init__(self, changes: Changes, per_second: float, keys: int) -> None:
        self._changes = changes
        self._pause = 1 / per_second
        self._keys = keys
        self._stop = threading.Event()
        self._told: dict[str, Any] = {"commits": 0, "slowest": 0.0}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._commit_until_stopped()
        except Exception as error:  # it is told to who asks for the result
            self._told["error"] = repr(error)
        finally:
            connection.close()

    def _commit_until_stopped(self) -> None:
        began = due = time.perf_counter()
        while not self._stop.wait(max(0.0, due - time.perf_counter())):
            started = time.perf_counter()
            self._changes.commit(self._keys)
            ended = time.perf_counter()
            self._told["commits"] += 1
            self._told["slowest"] = max(self._told["slowest"], ended - started)
            self._told["seconds"] = ended - began
            due += self._pause

    def end(self) -> dict[str, Any]:
        self._stop.set()
        self._thread.join()
        return self._told


def serve(commands: IO[str], answers: IO[str]) -> None:
    changes = Changes()
    load: Load | None = None
    _say(answers, {"keys": changes.keys})
    for line in commands:
        words = line.split()
        if words[0] == "go":
            load = Load(changes, float(words[1]), int(words[2]))
            _say(answers, {})
        else:
            assert load is not None
            _say(answers, load.end())


def _say(answers: IO[str], told: dict[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
