"""Group commit when the database goes away, comes back, or the process has to stop."""

from __future__ import annotations

import asyncio

from keyvault.delivery.group_commit import NEXT_LANE_AFTER, RETRY_AFTER
from keyvault.delivery.lane import Outcome, Unavailable
from keyvault.delivery.records import Absent
from tests.unit.delivery.scripted import GRACE, Scene, ScriptedLane, answers
from tests.unit.delivery.virtual_time import now, run, turns


def unplugged(scene: Scene, *, refuses: bool = True) -> None:
    """Every connection is lost, and there is nobody to connect to."""
    for lane in scene.lanes:
        lane.connected, lane.refuses = False, refuses


# Without a fallback --------------------------------------------------------------------------------


def test_a_batch_that_failed_is_an_outage_for_its_callers_only() -> None:
    async def story() -> None:
        scene = Scene()
        first = scene.ask("a")
        await turns()
        second = scene.ask("b")
        await scene.lane.answer(Unavailable("57014"))
        assert answers(first) == ["unavailable"]
        await scene.lane.commit()
        assert answers(second) == [True]
        assert scene.lane.opened == 0, "the connection was good all the time"

    run(story())


def test_a_lost_connection_is_an_outage_for_its_callers_and_made_again() -> None:
    async def story() -> None:
        scene = Scene()
        first = scene.ask("a")
        await turns()
        second = scene.ask("b")
        await scene.lane.lose()
        assert answers(first) == ["unavailable"]
        assert scene.lane.opened == 1
        await scene.lane.commit()
        assert (answers(second), scene.connected) == ([True], 1)

    run(story())


def test_the_first_callers_of_a_process_wait_for_its_connection() -> None:
    async def story() -> None:
        scene = Scene(lanes=2)
        unplugged(scene, refuses=False)
        futures = [scene.ask("a"), scene.ask("b")]
        await turns()
        assert [lane.opened for lane in scene.lanes] == [1, 1]
        assert scene.lane.batches == [["a", "b"]]
        await scene.lane.commit()
        assert answers(*futures) == [True, True]

    run(story())


def test_without_a_database_everybody_is_told_at_once() -> None:
    async def story() -> None:
        scene = Scene()
        unplugged(scene)
        future = scene.ask("a")
        await turns()
        assert (answers(future), scene.lane.opened) == (["unavailable"], 1)
        # Not a new attempt for each request.
        started = now()
        later = [scene.ask(str(n)) for n in range(50)]
        await turns()
        assert answers(*later) == ["unavailable"] * 50
        assert (scene.lane.opened, now()) == (1, started)

    run(story())


def away(scene: Scene) -> bool:
    return scene.commit.away


def test_whether_the_database_is_away_is_known_without_asking_it() -> None:
    async def story() -> None:
        scene = Scene(lanes=2)
        unplugged(scene)
        assert not away(scene), "nobody has tried"
        await asyncio.gather(scene.ask("a"), return_exceptions=True)
        assert away(scene)
        scene.lanes[1].connected = True
        assert not away(scene)
        scene.lanes[1].connected = False
        unplugged(scene, refuses=False)
        await asyncio.sleep(RETRY_AFTER)
        future = scene.ask("b")
        await turns()
        await scene.lane.commit()
        assert await future
        unplugged(scene, refuses=False)
        assert not away(scene), "the last attempt went well"

    run(story())


def test_a_database_that_is_back_is_found_by_the_next_request() -> None:
    async def story() -> None:
        scene = Scene()
        unplugged(scene)
        await asyncio.gather(scene.ask("a"), return_exceptions=True)
        unplugged(scene, refuses=False)
        await asyncio.sleep(RETRY_AFTER)
        future = scene.ask("b")
        await turns()
        await scene.lane.commit()
        assert (answers(future), scene.connected) == ([True], 1)

    run(story())


def test_one_connection_is_enough() -> None:
    async def story() -> None:
        scene = Scene(lanes=2)
        scene.lanes[1].connected, scene.lanes[1].refuses = False, True
        for name in "abc":
            future = scene.ask(name)
            await turns()
            await scene.lane.commit()
            assert await future
        assert scene.lanes[1].opened == 1, "asked again only after a while"
        assert scene.connected == 1, "what waits for a database may go there"

    run(story())


# With one: the outage grace ------------------------------------------------------------------------


def fallback_of(scene: Scene) -> ScriptedLane:
    assert scene.fallback is not None
    return scene.fallback


def test_within_the_grace_answers_go_on() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        await scene.confirmed_once()
        unplugged(scene)
        futures = [scene.ask("a"), scene.ask("b")]
        await turns()
        assert fallback_of(scene).batches == [["a", "b"]]
        assert answers(*futures) == ["waits", "waits"], "not on disk yet"
        await fallback_of(scene).commit()
        assert answers(*futures) == [True, True]

    run(story())


def test_the_grace_is_counted_from_the_last_word_of_the_database() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        await scene.confirmed_once()
        unplugged(scene)
        for _ in range(4):
            await asyncio.sleep(GRACE / 4)
            # What the fallback takes is no word of the database.
            future = scene.ask("within")
            await turns()
            await fallback_of(scene).commit()
            assert answers(future) == [True]
        await asyncio.sleep(RETRY_AFTER)
        future = scene.ask("after")
        await turns()
        assert answers(future) == ["unavailable"]

    run(story())


def test_who_never_reached_the_database_has_no_grace() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        unplugged(scene)
        future = scene.ask("a")
        await turns()
        assert (answers(future), fallback_of(scene).batches) == (["unavailable"], [])

    run(story())


def test_a_disk_that_does_not_take_it_is_an_outage() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        await scene.confirmed_once()
        unplugged(scene)
        future = scene.ask("a")
        await turns()
        await fallback_of(scene).answer(Unavailable("OSError"))
        assert answers(future) == ["unavailable"]

    run(story())


def test_a_database_that_is_back_takes_over_and_what_was_kept_follows() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        await scene.confirmed_once()
        unplugged(scene)
        kept = scene.ask("kept")
        await turns()
        await fallback_of(scene).commit()
        unplugged(scene, refuses=False)
        await asyncio.sleep(RETRY_AFTER)
        assert scene.connected == 0
        future = scene.ask("a")  # the first one still goes to the fallback, and asks for the connection
        await turns()
        assert scene.connected == 1
        await fallback_of(scene).commit()
        assert scene.connected == 2, "written after the take-over began"
        assert answers(kept, future) == [True, True]
        direct = scene.ask("b")
        await turns()
        assert scene.lane.batches[-1] == ["b"]
        await scene.lane.commit()
        assert answers(direct) == [True]

    run(story())


def test_a_batch_of_which_nobody_knows_is_not_written_twice() -> None:
    """Its connection broke after it was sent. It may be there: only who replays looks before writing."""

    async def story() -> None:
        scene = Scene(lanes=2, fallback=True)
        await scene.confirmed_once()
        unsure = scene.ask("unsure")
        await turns()
        await scene.lane.lose()
        assert fallback_of(scene).batches == [["unsure"]]
        assert scene.lanes[1].batches == []
        await fallback_of(scene).commit()
        assert answers(unsure) == [True]
        assert scene.connected >= 1

    run(story())


def test_unsure_batches_wait_for_the_fallback_like_others() -> None:
    async def story() -> None:
        scene = Scene(lanes=2, fallback=True)
        await scene.confirmed_once()
        futures = [scene.ask("a")]
        await turns()
        futures.append(scene.ask("b"))
        await asyncio.sleep(NEXT_LANE_AFTER * 2)
        unplugged(scene)
        for lane in scene.lanes:
            await lane.lose()
        futures.append(scene.ask("c"))
        await turns()
        assert fallback_of(scene).batches == [["a"]]
        for _ in range(3):
            if fallback_of(scene).busy:
                await fallback_of(scene).commit()
        assert sorted(name for batch in fallback_of(scene).batches for name in batch) == ["a", "b", "c"]
        assert answers(*futures) == [True, True, True]

    run(story())


def test_an_unsure_batch_that_is_outdated_is_decided_again() -> None:
    async def story() -> None:
        scene = Scene(lanes=2, fallback=True)
        await scene.confirmed_once()
        touched = Absent()
        first, second = scene.ask("a"), None
        await turns()
        second = scene.ask("b", touched)
        await asyncio.sleep(NEXT_LANE_AFTER * 2)
        unplugged(scene)
        await scene.lanes[0].lose()
        await scene.lanes[1].lose()
        touched.stale = True
        scene.commit.recheck()
        assert answers(second) == [False]
        await fallback_of(scene).commit()
        assert answers(first) == [True]

    run(story())


def test_after_the_grace_an_unsure_batch_is_an_outage() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        await scene.confirmed_once()
        unsure = scene.ask("unsure")
        await turns()
        await asyncio.sleep(GRACE + 1)
        await scene.lane.lose()
        assert (answers(unsure), fallback_of(scene).batches) == (["unavailable"], [])

    run(story())


# The end -------------------------------------------------------------------------------------------


def test_the_end_waits_for_what_is_under_way_and_what_waits() -> None:
    async def story() -> None:
        scene = Scene(fallback=True)
        first = scene.ask("a")
        await turns()
        second = scene.ask("b")
        closing = asyncio.ensure_future(scene.commit.close())
        await turns()
        assert not closing.done()
        await scene.lane.commit()
        assert not closing.done()
        assert not scene.lane.closed
        await scene.lane.commit()
        assert answers(first, second) == [True, True]
        assert closing.done()
        assert (scene.lane.closed, fallback_of(scene).closed) == (True, True)

    run(story())


def test_the_end_waits_for_those_who_learn_what_changed() -> None:
    async def story() -> None:
        scene = Scene()
        read = asyncio.Event()

        async def until_read() -> None:
            await read.wait()

        scene.refresh_waits = until_read
        future = scene.ask("a")
        await turns()
        scene.log_at = 6
        await scene.lane.answer(Outcome(6))
        closing = asyncio.ensure_future(scene.commit.close())
        await turns()
        assert not closing.done(), "a caller is left waiting"
        read.set()
        await turns()
        await scene.lane.commit()
        assert (answers(future), closing.done()) == ([True], True)

    run(story())


def test_at_the_end_nobody_connects_any_more() -> None:
    async def story() -> None:
        scene = Scene()
        first = scene.ask("a")
        await turns()
        second = scene.ask("b")
        closing = asyncio.ensure_future(scene.commit.close())
        await turns()
        await scene.lane.lose()
        assert answers(first, second) == ["unavailable", "unavailable"]
        assert closing.done()
        assert scene.lane.opened == 0

    run(story())


def test_callers_that_hung_up_do_not_hold_up_the_end() -> None:
    async def story() -> None:
        scene = Scene()
        under_way = scene.ask("a")
        await turns()
        waiting = scene.ask("b")
        under_way.cancel()
        waiting.cancel()
        closing = asyncio.ensure_future(scene.commit.close())
        await turns()
        await scene.lane.commit()
        await scene.lane.commit()
        assert closing.done()

    run(story())
