"""Counting in the cells of one host, within one process"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keyvault.limits.cells import GROUPS_TRIED, MOST_AHEAD, Cells
from keyvault.limits.cells_file import GROUP

MINUTE = 29_000_000
SUBJECT = uuid.UUID("9f1c53a7-6f0e-4d6b-8f5a-0d3c6f1b2a47").bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.cells"


@pytest.fixture
def cells(path: Path) -> Iterator[Cells]:
    made = Cells(path, 1024)
    yield made
    made.close()


def subjects(count: int) -> list[bytes]:
    return [uuid.uuid4().bytes for _ in range(count)]


class TestCounting:
    def test_hits_are_numbered_from_one_for_each_subject(self, cells: Cells) -> None:
        other = subjects(1)[0]
        assert [cells.hit(SUBJECT, MINUTE) for _ in range(3)] == [1, 2, 3]
        assert cells.hit(other, MINUTE) == 1
        assert cells.hit(SUBJECT, MINUTE) == 4

    def test_sixteen_zero_bytes_are_a_subject_too(self, cells: Cells) -> None:
        assert [cells.hit(bytes(16), MINUTE) for _ in range(2)] == [1, 2]

    @pytest.mark.parametrize("place", range(16))
    def test_subjects_that_differ_in_one_bit_are_told_apart(self, cells: Cells, place: int) -> None:
        other = bytearray(SUBJECT)
        other[place] ^= 1
        assert cells.hit(SUBJECT, MINUTE) == cells.hit(bytes(other), MINUTE) == 1

    def test_a_long_count_does_not_wrap(self, cells: Cells) -> None:
        assert [cells.hit(SUBJECT, MINUTE) for _ in range(70_000)] == list(range(1, 70_001))

    def test_threads_of_one_process_get_every_number_once(self, path: Path) -> None:
        """Two objects on one file, each used from several threads."""
        twins = [Cells(path, 64), Cells(path, 64)]

        def hammer(which: int) -> list[int]:
            return [twins[which % 2].hit(SUBJECT, MINUTE) for _ in range(500)]

        with ThreadPoolExecutor(8) as pool:
            numbers = [number for part in pool.map(hammer, range(8)) for number in part]
        assert sorted(numbers) == list(range(1, 4001))
        for twin in twins:
            twin.close()

    def test_closing_one_object_leaves_the_other_its_count(self, cells: Cells, path: Path) -> None:
        twin = Cells(path, 1024)
        assert (cells.hit(SUBJECT, MINUTE), twin.hit(SUBJECT, MINUTE)) == (1, 2)
        twin.close()
        assert cells.hit(SUBJECT, MINUTE) == 3


class TestMinutes:
    def test_the_next_minute_begins_anew(self, cells: Cells) -> None:
        assert [cells.hit(SUBJECT, MINUTE) for _ in range(3)] == [1, 2, 3]
        assert [cells.hit(SUBJECT, MINUTE + 1) for _ in range(2)] == [1, 2]
        assert cells.hit(SUBJECT, MINUTE + 7) == 1

    def test_an_older_minute_counts_in_the_newer_one(self, cells: Cells) -> None:
        assert [cells.hit(SUBJECT, MINUTE) for _ in range(2)] == [1, 2]
        assert cells.hit(SUBJECT, MINUTE - 1) == 3
        assert cells.hit(SUBJECT, MINUTE - MOST_AHEAD) == 4
        assert cells.hit(SUBJECT, MINUTE) == 5

    def test_a_clock_that_ran_far_ahead_limits_nobody_for_ever(self, cells: Cells) -> None:
        assert [cells.hit(SUBJECT, MINUTE + MOST_AHEAD + 1) for _ in range(2)] == [1, 2]
        assert [cells.hit(SUBJECT, MINUTE) for _ in range(2)] == [1, 2]

    def test_a_minute_of_many_subjects_leaves_room_for_the_next(self, cells: Cells) -> None:
        for minute in range(MINUTE, MINUTE + 20):
            assert {cells.hit(subject, minute) for subject in subjects(300)} == {1}
        assert cells.displaced == 0


class TestManySubjects:
    def test_more_subjects_than_a_group_has_cells_are_counted_exactly(self, path: Path) -> None:
        """Few groups, filled to the last cell but one: many subjects find no place in their first group."""
        cells = Cells(path, GROUPS_TRIED * GROUP)
        many = subjects(cells.cells - 1)
        for number in range(1, 6):
            assert {cells.hit(subject, MINUTE) for subject in many} == {number}
        assert cells.displaced == 0
        cells.close()

    def test_groups_are_used_evenly(self, cells: Cells) -> None:
        # Always the same: of others, one time in some ten thousand, eight groups in a row would be full.
        chance = random.Random(20260302)
        many = [chance.randbytes(16) for _ in range(700)]
        for number in (1, 2):
            assert {cells.hit(subject, MINUTE) for subject in many} == {number}
        assert cells.displaced == 0

    def test_a_full_table_gives_up_the_smallest_count(self, path: Path) -> None:
        cells = Cells(path, GROUP)
        busy, idle = subjects(GROUP - 1), subjects(1)[0]
        for subject in busy:
            assert [cells.hit(subject, MINUTE) for _ in range(3)] == [1, 2, 3]
        assert [cells.hit(idle, MINUTE) for _ in range(2)] == [1, 2]

        late = subjects(1)[0]
        with capture_logs() as logs:
            assert [cells.hit(late, MINUTE) for _ in range(3)] == [1, 2, 3]
            assert {cells.hit(subject, MINUTE) for subject in busy} == {4}
            assert cells.displaced == 1
            assert cells.hit(idle, MINUTE) == 1
        assert cells.displaced == 2
        assert [(entry["event"], entry["displaced"]) for entry in logs] == [("limits.cells_full", 1)]
        cells.close()

    def test_the_next_minute_frees_a_full_table(self, path: Path) -> None:
        cells = Cells(path, GROUP)
        for minute in (MINUTE, MINUTE + 1):
            many = subjects(GROUP)
            assert [cells.hit(subject, minute) for subject in many * 2] == [1] * GROUP + [2] * GROUP
        assert cells.displaced == 0
        cells.close()


def test_at_least_one_group_of_cells_is_made(path: Path) -> None:
    cells = Cells(path, 1)
    assert cells.cells == GROUP
    cells.close()


@pytest.mark.parametrize("number", [0, -5])
def test_no_cells_at_all_are_refused(path: Path, number: int) -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        Cells(path, number)
    assert not path.exists()
