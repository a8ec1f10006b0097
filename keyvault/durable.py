"""Files of lines that survive a crash: what was written is there, and a line cut short spoils no other."""

from __future__ import annotations

import os
from pathlib import Path


def append_lines(path: Path, lines: bytes) -> None:
    """Add whole lines to a private file (mode 0600), made where it is missing. Durable on return.

    A line that a crash cut short is ended first; readers leave it out. Raises ``OSError``.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
        stream.write(b"\n" + lines if torn else lines)
        stream.flush()
        os.fsync(handle)
