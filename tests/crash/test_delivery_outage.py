"""The database dies under load and comes back: with the outage grace, without it, and after it is over."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault.models import Delivery
from tests.api.delivery.world import World, build
from tests.conftest import Tell
from tests.crash.conftest import Breakable
from tests.installations import web
from tests.integration.plain_http import End
from tests.integration.processes import wait_for
from tests.load import Answer, Load, Question

pytestmark = [pytest.mark.serial, pytest.mark.postgresql]

CONNECTIONS = 8
GRACE = 120  # longer than a busy machine needs for what the test does within it
SHORT_GRACE = 8  # long enough that somebody asks within it, whoever has to wait for the processor meanwhile
# No answer may hang until some time limit deep below ends it: the least that this could be is the time that
# the pool waits for a connection, 10 s.
LONGEST = 9.0


def questions(worlds: list[World]) -> Callable[[int], Question]:
    asked = [Question("", f"{world.path}?instance=web-{n}", world.token) for n, world in enumerate(worlds)]
    return lambda number: asked[number % len(asked)]


def longest(load: Load) -> float:
    return max(answer.ended - answer.started for answer in load.answers)


def recorded(load: Load) -> Counter[str]:
    """How often each request id of this load stands in the database."""
    ids = Delivery.objects.filter(request_id__startswith=f"load-{load.name}-")
    return Counter(ids.values_list("request_id", flat=True))


def delivered(answer: Answer) -> bool:
    return answer.whole and answer.status == 200


def refused(answer: Answer) -> bool:
    return answer.whole and answer.status == 503


def test_kill_nine_of_the_database_loses_no_record_and_answers_resume(
    breakable: Breakable, free_port: int, tell: Tell
) -> None:
    with web(breakable.installation, free_port, workers=2) as server:
        worlds = [build(server.server) for _ in range(3)]
        with Load(free_port, questions(worlds), CONNECTIONS) as load:
            for _ in range(2):
                load.more(300, delivered)
                breakable.postgresql.kill()
                load.more(20, refused)
                breakable.postgresql.start()
            load.more(300, delivered)
    rows, received = recorded(load), load.with_key()
    tell(
        "kill -9 of PostgreSQL",
        {
            "kills": 2,
            "answers": load.statuses(),
            "rows": rows.total(),
            "unrecorded": len(received - rows.keys()),
        },
    )
    assert received - rows.keys() == set()
    assert max(rows.values()) == 1
    assert load.statuses().keys() <= {"200", "503 audit_unavailable", "503 database_unavailable"}
    assert all(a.exchange.headers["retry-after"] == "5" for a in load.answers if refused(a))
    assert longest(load) < LONGEST


def test_within_the_grace_answers_go_on_and_are_replayed_once(
    breakable: Breakable, free_port: int, tell: Tell
) -> None:
    settings = {"DELIVERY_OUTAGE_GRACE": str(GRACE)}
    with web(breakable.installation, free_port, workers=2, settings=settings) as server:
        worlds, stranger = [build(server.server) for _ in range(3)], build(server.server)
        # Each of these connections goes to either process, so that both know all of the keys.
        assert {world.get().status for world in worlds for _ in range(40)} == {200}
        with Load(free_port, questions(worlds), CONNECTIONS) as load:
            load.more(400, delivered)
            breakable.postgresql.kill()
            stopped = time.monotonic()
            load.more(500, delivered, since=stopped)
            asked = time.monotonic()
            assert stranger.get().code == "database_unavailable", "nobody knows whether it may"
            assert time.monotonic() - asked < LONGEST, "and it is told so at once"
            # The records of this one wait on disk, and itself is gone.
            killed = time.monotonic()
            os.kill(server.living()[0].pid, signal.SIGKILL)
            load.more(500, delivered, since=killed)
            assert _spooled(breakable.installation.data)
            away = time.monotonic() - stopped
            breakable.postgresql.start()
            wait_for(lambda: stranger.get().status == 200, "uncached keys are delivered again")
            load.more(300, delivered)
        wait_for(lambda: not _spooled(breakable.installation.data), "everything is replayed")
    rows, received = recorded(load), load.with_key()
    meanwhile = [a for a in load.answers if delivered(a) and stopped <= a.started < stopped + away]
    tell(
        f"PostgreSQL away for {away:.1f} s within the grace",
        {
            "answers": load.statuses(),
            "meanwhile": len(meanwhile),
            "rows": rows.total(),
            "unrecorded": len(received - rows.keys()),
            "doubled": sum(1 for times in rows.values() if times > 1),
        },
    )
    assert len(meanwhile) >= 1000
    assert received - rows.keys() == set()
    assert max(rows.values()) == 1, "replayed twice"
    cut = {a.request_id for a in load.answers if a.exchange.end in (End.NOTHING, End.TRUNCATED)}
    assert rows.keys() - received <= cut, "recorded, and the answer was lost with its process"
    # The outage itself is noticed by nobody; the process that took the place of the killed one knows nothing.
    assert [a for a in load.answers if a.ended < killed and not delivered(a)] == []
    assert load.statuses().keys() - {End.NOTHING.value, End.TRUNCATED.value} <= {
        "200",
        "503 database_unavailable",
    }
    assert longest(load) < LONGEST


def _spooled(data: Path) -> list[Path]:
    return list((data / "spool").glob("*"))


def test_after_the_grace_nothing_is_delivered(breakable: Breakable, free_port: int) -> None:
    settings = {"DELIVERY_OUTAGE_GRACE": str(SHORT_GRACE)}
    with web(breakable.installation, free_port, workers=1, settings=settings) as server:
        world = build(server.server)
        with Load(free_port, questions([world]), 1) as load:
            load.more(50, delivered)
            killed = breakable.postgresql.kill()
            gone = time.monotonic()
            load.more(50, refused)
            late = [a for a in load.answers if delivered(a) and a.started > gone + SHORT_GRACE]
            breakable.postgresql.start()
            load.more(50, delivered)
        wait_for(lambda: not _spooled(breakable.installation.data), "everything is replayed")
    meanwhile = [a for a in load.answers if delivered(a) and killed < a.started <= gone + SHORT_GRACE]
    assert meanwhile, "there was a grace"
    assert late == []
    assert load.with_key() - recorded(load).keys() == set()
    # A decision was there, its record was not taken; or nothing could be decided any more.
    assert load.statuses().keys() <= {"200", "503 audit_unavailable", "503 database_unavailable"}
