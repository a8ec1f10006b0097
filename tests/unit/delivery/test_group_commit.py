"""Group commit against a lane that does what the story says: who is answered what, and when."""

from __future__ import annotations

import asyncio

import pytest

from keyvault.delivery.group_commit import MOST_ENTRIES, NEXT_LANE_AFTER
from keyvault.delivery.lane import Outcome, Unavailable
from keyvault.delivery.records import Absent
from tests.unit.delivery.scripted import NOW, Scene, answers
from tests.unit.delivery.virtual_time import now, run, turns

# Batches -------------------------------------------------------------------------------------------


def test_callers_of_one_turn_share_a_batch() -> None:
    async def story() -> None:
        scene = Scene()
        futures = [scene.ask(name) for name in "abc"]
        assert not scene.lane.batches, "the turn is not over"
        await turns()
        assert scene.lane.batches == [["a", "b", "c"]]
        assert answers(*futures) == ["waits"] * 3
        await scene.lane.commit()
        assert answers(*futures) == [True] * 3

    run(story())


def test_what_arrives_meanwhile_is_the_next_batch() -> None:
    async def story() -> None:
        scene = Scene()
        first = scene.ask("a")
        await turns()
        later = [scene.ask("b")]
        await turns()
        later.append(scene.ask("c"))
        await turns()
        assert scene.lane.batches == [["a"]]
        started = now()
        await scene.lane.commit()
        assert scene.lane.batches == [["a"], ["b", "c"]]
        assert now() == started, "a free lane is used at once"
        assert answers(first, *later) == [True, "waits", "waits"]
        await scene.lane.commit()
        assert answers(*later) == [True, True]

    run(story())


def test_a_decision_without_a_row_is_confirmed_too() -> None:
    async def story() -> None:
        scene = Scene()
        future = scene.commit.confirm([Absent()], None)
        await turns()
        assert (scene.lane.batches, scene.lane.seen) == ([[]], [5])
        await scene.lane.commit()
        assert answers(future) == [True]

    run(story())


def test_a_batch_has_an_upper_bound() -> None:
    async def story() -> None:
        scene = Scene()
        futures = [scene.ask(str(n)) for n in range(MOST_ENTRIES + 5)]
        await turns()
        await scene.lane.commit()
        await scene.lane.commit()
        assert [len(batch) for batch in scene.lane.batches] == [MOST_ENTRIES, 5]
        assert answers(*futures) == [True] * len(futures)

    run(story())


def test_the_time_of_the_database_is_passed_on() -> None:
    async def story() -> None:
        scene = Scene()
        future = scene.ask("a")
        await turns()
        await scene.lane.answer(Outcome(5, NOW))
        assert scene.told == [NOW]
        assert await future

    run(story())


def test_a_caller_that_hung_up_disturbs_nobody() -> None:
    async def story() -> None:
        scene = Scene()
        gone, stays = scene.ask("gone"), scene.ask("stays")
        gone.cancel()
        await turns()
        second = scene.ask("second")
        await turns()
        second.cancel()
        await scene.lane.commit()
        assert answers(stays) == [True]
        await scene.lane.answer(Unavailable("any"))
        assert (gone.cancelled(), second.cancelled()) == (True, True)

    run(story())


# More lanes ----------------------------------------------------------------------------------------


def test_a_slow_batch_is_overtaken_by_a_second_lane() -> None:
    async def story() -> None:
        scene = Scene(lanes=2)
        first = scene.ask("a")
        await turns()
        started = now()
        second = scene.ask("b")
        await turns()
        assert not scene.lanes[1].busy, "too early"
        await asyncio.sleep(NEXT_LANE_AFTER)
        await turns()
        assert scene.lanes[1].batches == [["b"]]
        assert now() - started == pytest.approx(NEXT_LANE_AFTER)
        await scene.lanes[1].commit()
        assert answers(first, second) == ["waits", True]
        await scene.lanes[0].commit()
        assert answers(first) == [True]

    run(story())


def test_when_every_lane_is_slow_callers_wait_for_the_next_free_one() -> None:
    async def story() -> None:
        scene = Scene(lanes=2)
        first, second, third = scene.ask("a"), None, None
        await turns()
        second = scene.ask("b")
        await asyncio.sleep(NEXT_LANE_AFTER * 2)
        third = scene.ask("c")
        await asyncio.sleep(NEXT_LANE_AFTER * 5)
        assert answers(first, second, third) == ["waits"] * 3
        await scene.lanes[1].commit()
        assert scene.lanes[1].batches == [["b"], ["c"]]
        await scene.lanes[1].commit()
        await scene.lanes[0].commit()
        assert answers(first, second, third) == [True] * 3

    run(story())


# Changes -------------------------------------------------------------------------------------------


def test_only_what_rests_on_a_change_is_decided_again() -> None:
    async def story() -> None:
        scene = Scene()
        touched, other = Absent(), Absent()
        mine, others = scene.ask("mine", other, touched), scene.ask("others", other)
        await turns()
        waiting = [scene.ask("waiting mine", touched), scene.ask("waiting others", other)]
        scene.changed, scene.log_at = [touched], 7
        await scene.lane.answer(Outcome(7))
        assert scene.refreshed == 1
        assert answers(mine, waiting[0]) == [False, False]
        assert answers(others, waiting[1]) == ["waits", "waits"]
        assert (scene.lane.batches[-1], scene.lane.seen[-1]) == (["others", "waiting others"], 7)
        await scene.lane.commit()
        assert answers(others, waiting[1]) == [True, True]

    run(story())


def test_nothing_is_sent_while_changes_are_read() -> None:
    """It would rest on what is known to be outdated."""

    async def story() -> None:
        scene = Scene()
        read = asyncio.Event()

        async def until_read() -> None:
            await read.wait()

        scene.refresh_waits = until_read
        first = scene.ask("a")
        await turns()
        scene.log_at = 6
        await scene.lane.answer(Outcome(6))
        second = scene.ask("b")
        await asyncio.sleep(NEXT_LANE_AFTER * 10)
        assert scene.lane.batches == [["a"]]
        read.set()
        await turns()
        assert scene.lane.batches[1:] == [["a", "b"]]
        await scene.lane.commit()
        assert answers(first, second) == [True, True]

    run(story())


def test_one_look_at_the_log_serves_both_lanes() -> None:
    async def story() -> None:
        scene = Scene(lanes=2)
        touched = Absent()
        first = scene.ask("a", touched)
        await turns()
        second = scene.ask("b")
        await asyncio.sleep(NEXT_LANE_AFTER * 2)
        scene.changed, scene.log_at = [touched], 6
        await scene.lanes[0].answer(Outcome(6))
        assert (answers(first), scene.cache.seen) == ([False], 6)
        # The other batch left before the news came, and was refused as well.
        await scene.lanes[1].answer(Outcome(6))
        assert scene.refreshed == 1
        assert scene.lanes[0].batches[-1] == ["b"]
        await scene.lanes[0].commit()
        assert answers(second) == [True]

    run(story())


def test_changes_may_come_again_and_again() -> None:
    async def story() -> None:
        scene = Scene()
        future = scene.ask("a", Absent())
        for number in range(6, 12):
            await turns()
            scene.log_at = number
            await scene.lane.answer(Outcome(number))
        assert (scene.refreshed, answers(future)) == (6, ["waits"])
        await scene.lane.commit()
        assert answers(future) == [True]

    run(story())


def test_a_decision_that_is_outdated_already_is_not_sent() -> None:
    async def story() -> None:
        scene = Scene()
        touched = Absent()
        touched.stale = True
        future = scene.ask("a", touched)
        await turns()
        assert (answers(future), scene.lane.batches) == ([False], [])

    run(story())


def test_news_from_elsewhere_reach_those_who_wait() -> None:
    async def story() -> None:
        scene = Scene()
        touched = Absent()
        first = scene.ask("a")
        await turns()
        second = scene.ask("b", touched)
        touched.stale = True
        scene.commit.recheck()
        assert answers(second) == [False]
        await scene.lane.commit()
        assert (answers(first), scene.lane.batches) == ([True], [["a"]])

    run(story())


def test_changes_that_cannot_be_read_are_an_outage_for_those_who_need_them() -> None:
    async def story() -> None:
        scene = Scene()

        async def fails() -> None:
            raise OSError("the database went away")

        scene.refresh_waits = fails
        first = scene.ask("a")
        await turns()
        second = scene.ask("b")
        await scene.lane.answer(Outcome(6))
        assert answers(first) == ["unavailable"]
        assert scene.lane.batches[-1] == ["b"]
        scene.refresh_waits, scene.log_at = None, 6
        await scene.lane.answer(Outcome(6))
        await scene.lane.commit()
        assert answers(second) == [True]

    run(story())
