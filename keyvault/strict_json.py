"""JSON without generosity: one spelling, no name twice, no deep nesting, nothing unknown.

Python's parser takes the last of two equal names, NaN and integers of any length, and runs out of
stack on deep nesting. What is refused here never reaches a rule or the database.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from keyvault.exceptions import KeyturnError, invalid

MAX_DEPTH = 32
_MAX_DIGITS = 19

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_TYPE = re.compile(
    r"application/json(?:\s*;\s*charset\s*=\s*(?:utf-?8|\"utf-?8\"))?\s*;?", re.IGNORECASE | re.ASCII
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
# A name is told back only where it cannot be a secret that somebody pasted into the wrong place.
_HARMLESS_NAME = re.compile(r"[a-z]+(?:_[a-z]+){0,3}")


def is_json_type(content_type: str) -> bool:
    """Whether a ``Content-Type`` says ``application/json`` in UTF-8, and nothing else."""
    return _TYPE.fullmatch(content_type.strip()) is not None


def _malformed(message: str | None = None) -> KeyturnError:
    return KeyturnError("malformed_json", message or "The body is not valid JSON.")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("A name stands twice in one object.")
    return members


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise KeyturnError("validation_error", "The body has a number that is too large.")
    return int(text)


def _depth(text: str) -> int:
    """Deepest nesting of the text, brackets inside strings left out."""
    deepest = depth = 0
    for found in _BRACKET.finditer(_STRING.sub('""', text)):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def parse(body: bytes) -> Any:
    """The value of a JSON text. Raises ``malformed_json``; ``validation_error`` for endless numbers.

    NaN, infinite numbers and odd characters are for the caller to refuse.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("The body is not UTF-8.") from None
    if _depth(text) > MAX_DEPTH:
        raise _malformed(f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except ValueError:
        # The parser's own message would quote the body.
        raise _malformed() from None


def parse_object(body: bytes) -> dict[str, object]:
    """The object in the body. Raises ``malformed_json``; ``validation_error`` for no body and other roots."""
    value = parse(body) if body else None
    if not isinstance(value, dict):
        raise KeyturnError("validation_error", "A JSON object is expected as the body.")
    return value


def refuse_unknown(found: Mapping[str, object], known: Collection[str], *, where: str = "") -> None:
    """Raise ``unknown_field`` unless every name is known."""
    unknown = sorted(found.keys() - set(known))
    if not unknown:
        return
    if where:
        raise KeyturnError("unknown_field", f"{where} has a field that is not known here.")
    told = {name: ["This field is not known here."] for name in unknown if _HARMLESS_NAME.fullmatch(name)}
    raise KeyturnError("unknown_field", "The request has a field that is not known here.", fields=told)


def integer(value: object, field: str, *, low: int, high: int, what: str = "") -> int:
    """A JSON integer in the range. ``"60"``, ``60.0`` and ``true`` are none."""
    # type(), not isinstance(): True is an int.
    if type(value) is not int or not low <= value <= high:
        raise invalid(field, f"{what}Must be an integer from {low} to {high}.")
    return value


def moment(value: object, field: str) -> datetime:
    """A time with its zone, ``2026-03-02T09:00:00Z``."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise invalid(field, "This is not a time.") from None
    raise invalid(field, "Must be a time with a zone, such as 2026-03-02T09:00:00Z.")
