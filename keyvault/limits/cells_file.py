"""The file below the cells: a header, then 32 bytes a cell; every process of the host maps the same one.

It holds nothing that must survive: a file that is not exactly what this process expects is replaced by a
fresh one. Files appear whole, by renaming, and only under a lock on their folder, so that processes which
start together end up with the same file.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GROUP: Final = 16  # cells that share one lock
CELL_BYTES: Final = 32
HEADER_BYTES: Final = GROUP * CELL_BYTES  # so that every group lies on a round offset
WORD_BYTES: Final = 8

# Magic, version, bytes of a cell, cells, size of the file. What follows in the header starts at zero.
_HEADER: Final = struct.Struct("=8sIIQQ")
_MAGIC: Final = b"KTLIMITS"
_VERSION: Final = 1
# What opening a thing that is not our file says: a symbolic link, no right to it, a folder.
_FOREIGN: Final = frozenset({errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR})


@dataclass(frozen=True, slots=True)
class Mapping:
    """The mapped file. ``words`` are its native 64-bit words, ``identity`` tells one file from another."""

    descriptor: int
    memory: mmap.mmap
    words: memoryview
    cells: int
    identity: tuple[int, int]

    def close(self) -> None:
        """May be called again."""
        if not self.memory.closed:
            self.words.release()
            self.memory.close()
            os.close(self.descriptor)


def open_cells(path: Path, cells: int, *, any_size: bool = False) -> Mapping:
    """Map the file at ``path``, made or replaced where it is missing, torn, foreign or of another size.

    ``cells`` is a multiple of ``GROUP``. With ``any_size`` a sound file of another size is taken as it is.
    Raises ``OSError`` when the file can neither be used nor replaced.
    """
    found = _existing(path, None if any_size else cells)
    if found is not None:
        return found
    with _alone_in(path.parent):
        # Another process may have made it meanwhile.
        return _existing(path, None if any_size else cells) or _made(path, cells)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Which file stands at ``path`` now; None when there is none."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _existing(path: Path, cells: int | None) -> Mapping | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _FOREIGN:
            return None
        raise
    try:
        mapping = _mapped(descriptor, cells)
    except BaseException:
        os.close(descriptor)
        raise
    if mapping is None:
        os.close(descriptor)
    return mapping


def _mapped(descriptor: int, cells: int | None) -> Mapping | None:
    """None when this is not a file of ours, or not one of so many cells."""
    status = os.fstat(descriptor)
    private = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077 == 0
    if not stat.S_ISREG(status.st_mode) or not private or status.st_size <= HEADER_BYTES:
        return None
    told = (status.st_size - HEADER_BYTES) // CELL_BYTES
    if told % GROUP or (cells is not None and told != cells):
        return None
    if os.pread(descriptor, _HEADER.size, 0) != _header(told) or status.st_size != _size(told):
        return None
    memory = mmap.mmap(descriptor, status.st_size)
    return Mapping(descriptor, memory, memoryview(memory).cast("Q"), told, (status.st_dev, status.st_ino))


def _header(cells: int) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, CELL_BYTES, cells, _size(cells))


def _size(cells: int) -> int:
    return HEADER_BYTES + cells * CELL_BYTES


def _made(path: Path, cells: int) -> Mapping:
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_header(cells).ljust(HEADER_BYTES, b"\0"))
            # Written, not left as a hole: a full disk must be an error here, never SIGBUS at some hit.
            stream.write(bytes(cells * CELL_BYTES))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    mapping = _existing(path, cells)
    if mapping is None:
        raise OSError(errno.EIO, "The file of the rate limits is not what was just written", str(path))
    return mapping


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time; the kernel ends this for a process that is killed."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
