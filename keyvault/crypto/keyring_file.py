"""The keyring on disk: read only when nobody else can, written so that a crash loses nothing."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from keyvault.crypto.errors import KeyringError
from keyvault.crypto.keyring_document import MAX_DOCUMENT

_FILE_MODE: Final = 0o600
_OPEN_TO_OTHERS: Final = 0o177


def read_private(path: Path) -> str:
    """Return the text of a keyring file.

    Raises ``KeyringError`` unless it is a regular file that only its owner may read (mode 0600,
    or 0400 as mounted by a service manager); the message says how to put it right.
    """
    try:
        # O_NONBLOCK: a pipe at this path must not hang the start.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise KeyringError(f"There is no keyring at {path}.") from error
    except OSError as error:
        raise KeyringError(f"The keyring {path} cannot be opened: {error.strerror}.") from error
    try:
        # The open file is asked, not the path: between two looks at a path it may change.
        _check_mode(path, os.fstat(handle).st_mode)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(MAX_DOCUMENT + 1)
    finally:
        os.close(handle)
    return decoded(data, f"The keyring {path}")


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise KeyringError(f"The keyring {path} is not a regular file.")
    if mode & _OPEN_TO_OTHERS:
        raise KeyringError(
            f"The keyring {path} has mode {stat.S_IMODE(mode):04o}, so others may use it. "
            f"Run: chmod 600 {shlex.quote(str(path))}"
        )


def decoded(data: bytes, what: str) -> str:
    """Return ``data`` as text; ``KeyringError`` without the data if it is not UTF-8 or too large."""
    if len(data) > MAX_DOCUMENT:
        raise KeyringError(f"{what} is larger than 1 MiB.")
    with suppress(UnicodeDecodeError):
        return data.decode()
    raise KeyringError(f"{what} is not UTF-8 text.")


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Hold the folder of ``path`` against other writers of a keyring.

    The folder is locked because the file itself is replaced. The lock goes with the process.
    """
    handle = _open_folder(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def create_private(path: Path, text: str) -> None:
    """Write a new file with mode 0600; ``KeyringError`` if anything is there. Durable on return."""
    with locked_folder(path):
        temporary = _write_temporary(path, text)
        try:
            # A link fails where a rename would replace.
            os.link(temporary, path)
        except FileExistsError as error:
            raise KeyringError(f"There is already a keyring at {path}; it is never overwritten.") from error
        finally:
            os.unlink(temporary)
        _sync_folder(path)


def replace_private(path: Path, text: str) -> None:
    """Replace the file in one step; call it under ``locked_folder``. Durable on return."""
    os.replace(_write_temporary(path, text), path)
    _sync_folder(path)


def _open_folder(path: Path) -> int:
    try:
        return os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError as error:
        raise KeyringError(f"The folder {path.parent} cannot be opened: {error.strerror}.") from error


def _write_temporary(path: Path, text: str) -> Path:
    # One fixed name, so that a crash leaves at most one such file, and the next write removes it.
    temporary = path.with_name(f".{path.name}.writing")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, _FILE_MODE), "wb") as file:
        # The umask may have narrowed the mode; it never may decide it.
        os.fchmod(file.fileno(), _FILE_MODE)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(path: Path) -> None:
    handle = _open_folder(path)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
