"""Counting exactly for all processes and threads of one host, in about 2 microseconds.

A cell is four words: the subject (two), the minute, the count. It is free once its minute has passed.
Cells are looked up by open addressing in groups of 16; a subject's first group follows from its bits.

Why no hit is lost or counted twice: whoever works on a group holds its lock, and within a minute no cell
becomes free. So a group that was full without the subject stays so, and the first group in the subject's
order that either holds it or has a free cell is the same for everybody.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path
from typing import Final, NamedTuple

from keyvault.limits.cells_file import CELL_BYTES, GROUP, HEADER_BYTES, WORD_BYTES, identity_of, open_cells
from keyvault.limits.notice import Notice

SUBJECT_BYTES: Final = 16
GROUPS_TRIED: Final = 8
# Minutes. A cell further ahead was written by a clock that ran wrong, and would count for ever.
MOST_AHEAD: Final = 5

_WORDS: Final = CELL_BYTES // WORD_BYTES
_GROUP_BYTES: Final = GROUP * CELL_BYTES
_GROUP_WORDS: Final = GROUP * _WORDS
_HEADER_WORDS: Final = HEADER_BYTES // WORD_BYTES
_DISPLACED: Final = _HEADER_WORDS - 1  # the header's last word
_SUBJECT: Final = struct.Struct("=QQ")
# The order in which a group's cells are looked at, by the place where a subject starts.
_ORDERS: Final = tuple(
    tuple(_WORDS * ((start + step) % GROUP) for step in range(GROUP)) for start in range(GROUP)
)

# The kernel's record locks keep processes apart, not the threads of one; and closing any handle of a file
# gives up every lock that the process has on it. So one lock for all of it in this process.
_in_process = threading.Lock()


def _after_fork() -> None:
    """Some other thread of the parent may have held the lock, and does not exist here."""
    global _in_process
    _in_process = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class Cells:
    """The counters of one host in the file at ``path``. Any number of processes and threads may share it."""

    def __init__(self, path: Path, cells: int) -> None:
        """Map the file, made where needed; ``cells`` is rounded up to whole groups. Raises ``OSError``."""
        if cells < 1:
            raise ValueError("The rate limits need at least one cell.")
        self._path = path
        self._full = Notice("limits.cells_full")
        self._stuck = Notice("limits.file_not_followed")
        with _in_process:
            self._file = open_cells(path, -(-cells // GROUP) * GROUP)
        self._minute = -1

    @property
    def cells(self) -> int:
        return self._file.cells

    @property
    def displaced(self) -> int:
        """How often, on this host, a cell was taken from another subject because the table was full."""
        return self._file.words[_DISPLACED]

    def close(self) -> None:
        with _in_process:
            self._file.close()

    def hit(self, subject: bytes, minute: int, times: int = 1) -> int:
        """Count hits of ``subject`` (16 bytes); returns the last one's number in ``minute`` (since 1970).

        Numbers start at 1. A hit with an older minute than the subject's cell counts in the newer one. Waits
        only while another thread or process counts in the same group of cells.
        """
        first, second = _SUBJECT.unpack(subject)
        with _in_process:
            if minute != self._minute:
                self._follow(minute)
            # Not the lowest bits: in a UUID some of them are constant.
            home = (second >> 16) % self._file.cells
            group, order = home // GROUP, _ORDERS[home % GROUP]
            hits = _Hits(first, second, minute, times)
            return self._count(group, order, hits) or self._count_elsewhere(group, order, hits)

    def _count(self, group: int, order: tuple[int, ...], hits: _Hits, *, take: bool = False) -> int:
        """Count in this group. 0 where the subject is not in it and no cell is free; ``take`` takes one."""
        file = self._file
        first, second, minute, times = hits
        offset = HEADER_BYTES + group * _GROUP_BYTES
        fcntl.lockf(file.descriptor, fcntl.LOCK_EX, _GROUP_BYTES, offset)
        try:
            words, base = file.words, _HEADER_WORDS + group * _GROUP_WORDS
            for step in order:
                at = base + step
                if not minute <= words[at + 2] <= minute + MOST_AHEAD:
                    return _begin(words, at, hits)
                if words[at] == first and words[at + 1] == second:
                    count: int = words[at + 3] + times
                    words[at + 3] = count
                    return count
            if not take:
                return 0
            return _begin(words, base + min(order, key=lambda step: words[base + step + 3]), hits)
        finally:
            fcntl.lockf(file.descriptor, fcntl.LOCK_UN, _GROUP_BYTES, offset)

    def _count_elsewhere(self, group: int, order: tuple[int, ...], hits: _Hits) -> int:
        """The first group is full: try the next ones, then take the cell with the smallest count."""
        groups = self._file.cells // GROUP
        for step in range(1, min(GROUPS_TRIED, groups)):
            count = self._count((group + step) % groups, order, hits)
            if count:
                return count
        count = self._count(group, order, hits, take=True)
        if count == hits.times:
            self._note_displaced()
        return count

    def _note_displaced(self) -> None:
        file = self._file
        fcntl.lockf(file.descriptor, fcntl.LOCK_EX, HEADER_BYTES, 0)
        try:
            file.words[_DISPLACED] += 1
        finally:
            fcntl.lockf(file.descriptor, fcntl.LOCK_UN, HEADER_BYTES, 0)
        self._full.warn(cells=file.cells, displaced=file.words[_DISPLACED])

    def _follow(self, minute: int) -> None:
        """Once a minute: use the file that is there now, so that nobody goes on counting in a deleted one.

        Another process may have been started with another number of cells; then its file is everybody's.
        """
        self._minute = minute
        if identity_of(self._path) == self._file.identity:
            return
        try:
            fresh = open_cells(self._path, self._file.cells, any_size=True)
        except OSError as error:
            # Counting goes on in the old file.
            self._stuck.warn(error=type(error).__name__, errno=error.errno)
            return
        self._file.close()
        self._file = fresh


class _Hits(NamedTuple):
    """What is counted: the two words of the subject, the minute, and how often."""

    first: int
    second: int
    minute: int
    times: int


def _begin(words: memoryview, at: int, hits: _Hits) -> int:
    """Give this cell to the subject, with its first hits. Killed in between, it leaves a free cell."""
    words[at + 2] = 0
    words[at] = hits.first
    words[at + 1] = hits.second
    words[at + 3] = hits.times
    words[at + 2] = hits.minute
    return hits.times
