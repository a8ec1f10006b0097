"""The paths an access token is limited to, and the gate that makes paths comparable.

    glob    = "*" | "/v1/" segment ("/" segment)* ["/"]
    segment = letters, digits, "_", ".", "~", "-" and "*"; not "." and not ".."

A ``*`` inside a segment stands for any number of characters of that segment. A final ``/*`` stands
for everything below: one or more segments. ``*`` alone stands for every path. Nothing else is
special, and no regular expression is built from what a caller wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAX_GLOBS: Final = 20
MAX_GLOB_BYTES: Final = 200
MAX_TOTAL_BYTES: Final = 2048

_ROOT: Final = "/v1/"
_PATH: Final = re.compile(r"/[A-Za-z0-9/_.~*@+-]*")
_NOT_CANONICAL: Final = re.compile(r"//|/\.\.?(?:/|\Z)")


class GlobError(ValueError):
    """The list of globs is refused. The message names the position, never the text."""


@dataclass(frozen=True, slots=True)
class Glob:
    """One checked glob: its text, its segments split at stars, and whether it is open-ended."""

    text: str
    segments: tuple[tuple[str, ...], ...]
    everything_below: bool


def is_canonical_path(raw_path: bytes | str) -> bool:
    """Tell whether a path, as it came in and not decoded, has one spelling only.

    It starts with "/", uses unreserved characters, "*", and "@" and "+" as user names have them (so no
    ``%``, ``;``, backslash or control character), and has no empty, "." or ".." segment. The query is
    not part of it.
    """
    if isinstance(raw_path, bytes):
        raw_path = raw_path.decode("latin-1")
    return _PATH.fullmatch(raw_path) is not None and _NOT_CANONICAL.search(raw_path) is None


def parse_globs(globs: object) -> tuple[Glob, ...]:
    """Check a list of globs: 1 to 20, at most 200 bytes each and 2,048 together.

    Raises ``GlobError`` with a message for the caller.
    """
    if not isinstance(globs, list | tuple) or not globs:
        raise GlobError("A list with at least one path is expected.")
    if len(globs) > MAX_GLOBS:
        raise GlobError(f"At most {MAX_GLOBS} paths are taken.")
    parsed = tuple(_parse(text, position) for position, text in enumerate(globs, start=1))
    if sum(len(glob.text) for glob in parsed) > MAX_TOTAL_BYTES:
        raise GlobError(f"The paths together have at most {MAX_TOTAL_BYTES} bytes.")
    return parsed


def _parse(text: object, position: int) -> Glob:
    if not isinstance(text, str):
        raise GlobError(f"Path {position} is not a string.")
    if len(text) > MAX_GLOB_BYTES:
        raise GlobError(f"Path {position} is longer than {MAX_GLOB_BYTES} bytes.")
    if text == "*":
        return Glob(text, (), everything_below=True)
    if not text.startswith(_ROOT) or text == _ROOT:
        raise GlobError(f'Path {position} is neither "*" nor below {_ROOT}.')
    if not is_canonical_path(text):
        raise GlobError(f"Path {position} has a character or a segment that is not allowed.")
    if "**" in text:
        raise GlobError(f"Path {position} has two stars in a row; one is enough.")
    segments = text.split("/")[1:]
    everything_below = segments[-1] == "*"
    fixed = segments[:-1] if everything_below else segments
    return Glob(text, tuple(tuple(segment.split("*")) for segment in fixed), everything_below)


def matches(globs: Iterable[Glob], path: str) -> bool:
    """Tell whether one of the globs covers the path. A path that is not canonical is never covered."""
    if not is_canonical_path(path):
        return False
    segments = path.split("/")[1:]
    return any(_covers(glob, segments) for glob in globs)


def _covers(glob: Glob, segments: list[str]) -> bool:
    if not glob.segments:
        return glob.everything_below
    count = len(glob.segments)
    if glob.everything_below:
        # The trailing slash of a folder is not something below it.
        if len(segments) <= count or segments[count] == "":
            return False
    elif len(segments) != count:
        return False
    return all(
        _segment_matches(parts, segment)
        for parts, segment in zip(glob.segments, segments[:count], strict=True)
    )


def _segment_matches(parts: tuple[str, ...], segment: str) -> bool:
    """Match the texts between stars, each at its leftmost place: linear, and never wrong for ``*``."""
    if len(parts) == 1:
        return segment == parts[0]
    first, *middle, last = parts
    # The two ends may not share letters. Nor can a star stand for the missing name behind a
    # trailing slash: a last segment that is "*" alone never comes here, any other has letters.
    if len(segment) < len(first) + len(last):
        return False
    if not segment.startswith(first) or not segment.endswith(last):
        return False
    position, end = len(first), len(segment) - len(last)
    for part in middle:
        found = segment.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
