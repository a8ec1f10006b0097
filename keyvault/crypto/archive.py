"""A backup as one file: sealed parts, and a signed manifest at its end. No framework, no database.

    MAGIC | HEADER of a sealed file | sealed parts, one after the other | manifest, JSON | its length (8) |
    END

The manifest is in the clear, so that a host without the identity can tell whether a backup is whole: it holds
the SHA-256 of every sealed part, and is signed by the installation. It is written last, so that one pass
does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keyvault.crypto import signed
from keyvault.crypto.sealed_file import SealedFileError, Sealer, Unsealer, read_header

FORMAT: Final = "keyturn-backup"
VERSION: Final = 1
KIND: Final = "backup"  # of the signed document
MAGIC: Final = b"keyturn-backup 1\n"
END: Final = b"\nkeyturn-backup end\n"

_MOST_MANIFEST: Final = 4 * 1024 * 1024
_PIECE: Final = 1024 * 1024


class ArchiveError(Exception):
    """This is no backup, or not a whole and genuine one; the text says why."""


@dataclass(frozen=True)
class Part:
    """One table. ``bytes`` and ``sha256`` are of the sealed part; ``columns`` as in its rows."""

    name: str
    columns: tuple[str, ...]
    rows: int
    bytes: int
    sha256: str


class ArchiveWriter:
    """Writes a backup from its first byte to its last; ``file`` is only ever appended to."""

    def __init__(self, file: BinaryIO, recipients: Sequence[str]) -> None:
        self._file = file
        self._sealer = Sealer(recipients)
        self._recipients = list(recipients)
        self._parts: list[Part] = []
        file.write(MAGIC + self._sealer.header)

    def add(self, name: str, columns: Sequence[str], lines: Iterable[bytes]) -> Part:
        """Write one part; each line is a row and ends with a line feed."""
        counted = _Counted(lines)
        digest, size = hashlib.sha256(), 0
        for piece in self._sealer.seal(name, counted):
            self._file.write(piece)
            digest.update(piece)
            size += len(piece)
        part = Part(name, tuple(columns), counted.lines, size, digest.hexdigest())
        self._parts.append(part)
        return part

    def describe(self) -> dict[str, Any]:
        """What belongs into the manifest about the file itself."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "recipients": self._recipients,
            "header": hashlib.sha256(self._sealer.header).hexdigest(),
            "parts": [{**asdict(part), "columns": list(part.columns)} for part in self._parts],
        }

    def finish(self, manifest: Mapping[str, Any]) -> None:
        data = json.dumps(manifest, indent=1).encode()
        self._file.write(data + len(data).to_bytes(8, "big") + END)


class _Counted:
    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.lines = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.lines += 1
            yield line


class Archive:
    """A backup that is being read. Nothing of it is believed before ``check``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.manifest = _read_manifest(file)
        try:
            self.parts = tuple(
                Part(**{**part, "columns": tuple(part["columns"])}) for part in self.manifest["parts"]
            )
        except (KeyError, TypeError):
            raise ArchiveError("Its manifest names no parts.") from None

    def check(self, key_set: Mapping[str, Any]) -> str:
        """Return the kid that signed it, if the file is whole and as the manifest says.

        ``key_set``: a JSON Web Key Set. Raises ``ArchiveError``. No identity is needed.
        """
        try:
            kid = signed.verify(self.manifest, KIND, key_set)
        except signed.SignedError as error:
            raise ArchiveError(f"Its manifest is not genuine. {error}") from None
        header = self._header()
        if hashlib.sha256(header).hexdigest() != self.manifest.get("header"):
            raise ArchiveError("Its header is not the one that was signed.")
        for part in self.parts:
            if self._digest(part.bytes) != part.sha256:
                raise ArchiveError(f"The part {part.name} is not as it was written.")
        if self._file.tell() != self._end:
            raise ArchiveError("There is more in it than its manifest names.")
        return kid

    def lines(self, identity: X25519PrivateKey) -> Iterator[tuple[Part, Iterator[bytes]]]:
        """Every part with its lines, each to be read to its end before the next. Raises ``ArchiveError``."""
        self._file.seek(len(MAGIC))
        try:
            unsealer = Unsealer(self._file, identity)
        except SealedFileError as error:
            raise ArchiveError(str(error)) from None
        for part in self.parts:
            yield part, _lines(part, unsealer.open(part.name, self._file, part.bytes))

    def _header(self) -> bytes:
        self._file.seek(len(MAGIC))
        try:
            return read_header(self._file)
        except SealedFileError as error:
            raise ArchiveError(str(error)) from None

    def _digest(self, size: int) -> str:
        digest = hashlib.sha256()
        while size:
            piece = self._file.read(min(size, _PIECE))
            if not piece:
                break
            digest.update(piece)
            size -= len(piece)
        return digest.hexdigest()

    @property
    def _end(self) -> int:
        """Where the manifest begins."""
        here = self._file.tell()
        self._file.seek(-(len(END) + 8), os.SEEK_END)
        end = self._file.tell() - int.from_bytes(self._file.read(8), "big")
        self._file.seek(here)
        return end


def _lines(part: Part, pieces: Iterator[bytes]) -> Iterator[bytes]:
    held, rows = b"", 0
    try:
        for piece in pieces:
            *whole, held = (held + piece).split(b"\n")
            rows += len(whole)
            yield from whole
    except SealedFileError as error:
        raise ArchiveError(f"The part {part.name} cannot be read. {error}") from None
    if held or rows != part.rows:
        raise ArchiveError(f"The part {part.name} does not hold the rows that its manifest names.")


def _read_manifest(file: BinaryIO) -> dict[str, Any]:
    if file.read(len(MAGIC)) != MAGIC:
        raise ArchiveError("This is no backup of a version that is known here.")
    try:
        file.seek(-(len(END) + 8), os.SEEK_END)
        tail = file.read()
        size = int.from_bytes(tail[:8], "big")
        if tail[8:] != END or not 0 < size <= _MOST_MANIFEST:
            raise ArchiveError("It was cut off: its end is missing.")
        file.seek(-(len(END) + 8 + size), os.SEEK_END)
        manifest = signed.read_document(file.read(size))
    except (OSError, signed.NotADocument):
        raise ArchiveError("It was cut off: it has no manifest.") from None
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise ArchiveError("This is no backup of a version that is known here.")
    return manifest


@contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """A new file with mode 0600 that appears under its name whole and durable, or not at all.

    Raises ``FileExistsError``: nothing is ever written over.
    """
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            # The umask may have narrowed the mode; it never may decide it.
            os.fchmod(file.fileno(), 0o600)
            yield file
            file.flush()
            os.fsync(file.fileno())
        # A link fails where a rename would replace.
        os.link(temporary, path)
        _sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
