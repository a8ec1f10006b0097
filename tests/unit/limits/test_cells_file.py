"""The file of the cells: who makes it, when it is replaced, who follows"""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keyvault.limits.cells import Cells
from keyvault.limits.cells_file import GROUP, HEADER_BYTES, Mapping, open_cells

MINUTE = 29_000_000
SUBJECT = b"sixteen bytes..."
CELLS = 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.cells"


def made(path: Path) -> None:
    cells = Cells(path, CELLS)
    cells.hit(SUBJECT, MINUTE)
    cells.close()


def empty(path: Path) -> None:
    path.touch(0o600)


def torn(path: Path) -> None:
    made(path)
    os.truncate(path, HEADER_BYTES + 32 * CELLS - 1)


def grown(path: Path) -> None:
    made(path)
    os.truncate(path, HEADER_BYTES + 32 * (CELLS + GROUP))


def grown_by_part_of_a_cell(path: Path) -> None:
    made(path)
    os.truncate(path, HEADER_BYTES + 32 * CELLS + 31)


def cut_in_the_header(path: Path) -> None:
    made(path)
    os.truncate(path, 40)


def of_another_program(path: Path) -> None:
    path.write_bytes(b"\x7fELF" * 4096)
    path.chmod(0o600)


def of_another_version(path: Path) -> None:
    made(path)
    content = bytearray(path.read_bytes())
    content[8:12] = struct.pack("=I", 2)
    path.write_bytes(content)


def of_another_size(path: Path) -> None:
    Cells(path, 4 * CELLS).close()


def readable_by_others(path: Path) -> None:
    made(path)
    path.chmod(0o644)


def a_link(path: Path) -> None:
    target = path.with_name("target")
    made(target)
    path.symlink_to(target)


def a_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


UNUSABLE = [
    empty,
    torn,
    grown,
    grown_by_part_of_a_cell,
    cut_in_the_header,
    of_another_program,
    of_another_version,
    of_another_size,
    readable_by_others,
    a_link,
    a_pipe,
]


class TestMaking:
    def test_a_fresh_file_is_private_whole_and_alone(self, path: Path) -> None:
        cells = Cells(path, 4096)
        status = path.lstat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_size == HEADER_BYTES + 32 * 4096
        # No holes: a full disk must not kill a process at some hit.
        assert status.st_blocks * 512 >= status.st_size
        assert list(path.parent.iterdir()) == [path]
        cells.close()

    def test_a_sound_file_is_used_as_it_is(self, path: Path) -> None:
        made(path)
        cells = Cells(path, CELLS)
        assert cells.hit(SUBJECT, MINUTE) == 2
        cells.close()

    @pytest.mark.parametrize("spoil", UNUSABLE)
    def test_any_other_is_replaced(self, path: Path, spoil: Callable[[Path], None]) -> None:
        spoil(path)
        cells = Cells(path, CELLS)
        assert [cells.hit(SUBJECT, MINUTE) for _ in range(2)] == [1, 2]
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, HEADER_BYTES + 32 * CELLS)
        cells.close()

    @pytest.mark.parametrize("spoil", [lambda path: None, of_another_program])
    def test_all_who_come_at_once_get_the_same_file(self, path: Path, spoil: Callable[[Path], None]) -> None:
        spoil(path)
        together = threading.Barrier(8)

        def come(_: int) -> Mapping:
            together.wait(60)
            return open_cells(path, 32_768)

        with ThreadPoolExecutor(8) as pool:
            mappings = list(pool.map(come, range(8)))
        status = path.stat()
        assert {mapping.identity for mapping in mappings} == {(status.st_dev, status.st_ino)}
        for mapping in mappings:
            mapping.close()

    def test_what_cannot_be_made_is_an_error_and_leaves_nothing(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            Cells(path, CELLS)
        assert list(path.parent.iterdir()) == [path]


class TestFollowing:
    @pytest.mark.parametrize("spoil", [Path.unlink, of_another_size])
    def test_everybody_counts_in_the_new_file_from_the_next_minute(
        self, path: Path, spoil: Callable[[Path], None]
    ) -> None:
        first = Cells(path, CELLS)
        assert first.hit(SUBJECT, MINUTE) == 1
        spoil(path)
        second = Cells(path, 2 * CELLS)
        assert second.hit(SUBJECT, MINUTE) == 1
        numbers = [cells.hit(SUBJECT, MINUTE + 1) for cells in (first, second) * 2]
        assert numbers == [1, 2, 3, 4]
        assert first.cells == second.cells == 2 * CELLS
        first.close()
        second.close()

    def test_a_deleted_file_is_made_again(self, path: Path) -> None:
        cells = Cells(path, CELLS)
        cells.hit(SUBJECT, MINUTE)
        path.unlink()
        assert [cells.hit(SUBJECT, MINUTE + 1) for _ in range(2)] == [1, 2]
        assert path.is_file()
        cells.close()

    def test_counting_goes_on_where_no_new_file_can_be_had(self, path: Path) -> None:
        cells = Cells(path, CELLS)
        cells.hit(SUBJECT, MINUTE)
        path.unlink()
        path.mkdir()
        with capture_logs() as logs:
            assert [cells.hit(SUBJECT, MINUTE + 1) for _ in range(2)] == [1, 2]
            assert cells.hit(SUBJECT, MINUTE + 2) == 1
        assert [(entry["event"], entry["error"]) for entry in logs] == [
            ("limits.file_not_followed", "IsADirectoryError")
        ]
        cells.close()
