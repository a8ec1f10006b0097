"""The file that ``import_keys`` reads. What is doubtful is refused with its row; nothing is repaired.

Messages name rows and columns and never repeat a cell: a secret may stand in the wrong one.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from keyvault.crypto.intake import SecretRefused, check_secret
from rotation.services.bulk import MOST_ROWS, ImportRefused, KeyRow, Problem

REQUIRED: Final = ("service", "environment", "secret")
OPTIONAL: Final = ("policy", "provider_key_id")
MOST_BYTES: Final = 64 * 1024 * 1024
_LONGEST_ID: Final = 200

# What a spreadsheet would calculate, and what it leaves behind where it did.
_FORMULA: Final = re.compile(
    r"[=@]|[+-].*[(!|]|#(?:NAME|REF|VALUE|DIV/0|N/A|NUM|NULL)\b|\d(?:[.,]\d+)?E\+\d+\Z"
)


class FileRefused(Exception):
    """The file as a whole is not read; the message says why."""


def read_rows(path: Path) -> list[KeyRow]:
    """The rows of a CSV or JSON file.

    Row numbers are those a spreadsheet shows (the header is row 1); in JSON the first object is row 1.
    Raises ``FileRefused`` and ``ImportRefused``.
    """
    text = _decode(_read(path))
    records = _json_records(text) if text.lstrip()[:1] in ("[", "{") else _csv_records(text)
    problems: list[Problem] = []
    rows: list[KeyRow] = []
    for number, record in records:
        if len(rows) + len(problems) >= MOST_ROWS:
            _refuse(number, f"at most {MOST_ROWS} rows are imported at once.")
        try:
            rows.append(_row(number, record))
        except SecretRefused as refused:
            problems.append(Problem(number, f"secret: {refused.message}"))
        except ValueError as error:
            problems.append(Problem(number, str(error)))
    if problems:
        raise ImportRefused(problems)
    if not rows:
        raise FileRefused("There is no row in this file.")
    return rows


def _refuse(row: int, message: str) -> NoReturn:
    raise ImportRefused([Problem(row, message)])


# The file ------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a pipe must not hang us. The open file is asked for its mode, not the path.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FileRefused(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise FileRefused(f"{path} is not a regular file.")
        if mode & 0o077:
            raise FileRefused(f"Others may read {path}, and it holds secrets. Run: chmod 600 {path}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    finally:
        os.close(handle)
    if len(data) > MOST_BYTES:
        raise FileRefused(f"{path} is larger than {MOST_BYTES // 1024 // 1024} MiB.")
    return data


def _decode(data: bytes) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        _refuse(1, "the file starts with a byte order mark. Save it as UTF-8 without one.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
    else:
        return text
    # Raised outside the handler, so that no traceback carries the bytes of the file.
    _refuse(row, "this is not UTF-8 text.")


# CSV -----------------------------------------------------------------------------------------------


def _csv_records(text: str) -> Iterable[tuple[int, Mapping[str, str]]]:
    _check_line_ends(text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    header: list[str] = []
    try:
        for cells in reader:
            number += 1
            if number == 1:
                header = _check_header(cells)
            elif len(cells) != len(header):
                _refuse(number, f"there are {len(cells)} cells, and {len(header)} columns.")
            else:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error:
        _refuse(number + 1, "this is not CSV: look for a quotation mark that is not closed or not doubled.")


def _check_line_ends(text: str) -> None:
    """One kind of line end in the whole file; a mixture means that two files were pasted together."""
    first = ""
    for index, line in enumerate(text.splitlines(keepends=True), start=1):
        end = re.search(r"[\r\n]*\Z", line)
        found = end.group() if end else ""
        first = first or found
        if found and found != first:
            _refuse(index, "this line ends unlike those before. Save the file with one kind of line end.")


def _check_header(cells: list[str]) -> list[str]:
    known = {*REQUIRED, *OPTIONAL}
    if set(cells) - known or len(set(cells)) != len(cells) or not set(REQUIRED) <= set(cells):
        _refuse(
            1,
            f"the first row names the columns {', '.join(REQUIRED)}, and if wanted {' and '.join(OPTIONAL)}.",
        )
    return cells


# JSON ----------------------------------------------------------------------------------------------


def _json_records(text: str) -> Iterable[tuple[int, Mapping[str, str]]]:
    entries = _parse_json(text)
    if not isinstance(entries, list):
        raise FileRefused("A JSON file holds a list of objects.")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
            _refuse(number, "each entry is an object whose members are texts.")
        if set(entry) - {*REQUIRED, *OPTIONAL}:
            _refuse(number, f"the members are {', '.join((*REQUIRED, *OPTIONAL))}.")
        yield number, entry


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
    except (RecursionError, ValueError):
        where = "a member that stands twice, or too many levels"
    raise FileRefused(f"This is not valid JSON: {where}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("twice")
    return members


# Cells ---------------------------------------------------------------------------------------------


def _row(number: int, record: Mapping[str, str]) -> KeyRow:
    """Raises ``ValueError`` (its message is for people) and ``SecretRefused``."""
    missing = [name for name in REQUIRED if not record.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing.")
    for name, cell in record.items():
        if _FORMULA.match(cell):
            raise ValueError(f"{name}: this looks like a spreadsheet formula or what one left behind.")
        if name != "secret" and (cell != cell.strip() or not cell.isprintable()):
            raise ValueError(f"{name}: there is white space around it or a control character in it.")
    key_id = record.get("provider_key_id", "")
    if len(key_id) > _LONGEST_ID:
        raise ValueError(f"provider_key_id: at most {_LONGEST_ID} characters.")
    return KeyRow(
        number=number,
        service=record["service"],
        environment=record["environment"],
        secret=check_secret(record["secret"]),
        policy=record.get("policy", ""),
        provider_key_id=key_id,
    )
