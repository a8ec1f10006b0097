"""JSON as the contract takes it: one value, UTF-8, bounded in size and depth, nothing said twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import IO, Any, Final, NoReturn

from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.parsers import BaseParser

from keyvault.errors import MAX_BODY_BYTES
from keyvault.exceptions import KeyturnError

MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 18
_BOM: Final = b"\xef\xbb\xbf"
_CHARSET: Final = re.compile(r";\s*charset\s*=\s*\"?([^\";\s]*)\"?", re.IGNORECASE)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class StrictJSONParser(BaseParser):
    """``application/json`` in UTF-8. Messages say what is wrong, never what was sent."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        charset = _CHARSET.search(media_type or "")
        if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType(media_type or "")
        request = (parser_context or {}).get("request")
        if request is not None and request.META.get("HTTP_CONTENT_ENCODING", "identity") not in (
            "",
            "identity",
        ):
            raise UnsupportedMediaType(media_type or "")
        raw: bytes = stream.read(MAX_BODY_BYTES + 1)
        if len(raw) > MAX_BODY_BYTES:
            raise KeyturnError("payload_too_large", "The body is larger than 64 KiB.")
        return parse_json(raw)


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text. Raises ``ParseError`` or ``KeyturnError`` (``validation_error``)."""
    if raw.startswith(_BOM):
        raise ParseError("The body begins with a byte order mark. Send plain UTF-8.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ParseError("The body is not UTF-8.") from None
    if _depth(raw) > MAX_DEPTH:
        raise ParseError(f"The body is nested more than {MAX_DEPTH} levels deep.")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError):
        # The parser's own message would quote the body.
        raise ParseError("The body is not valid JSON.") from None
    _check_texts(value)
    return value


def _depth(raw: bytes) -> int:
    """How deep brackets nest outside of strings; found without recursion."""
    depth = deepest = 0
    for token in _TOKEN.finditer(raw):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in (b"]", b"}"):
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ParseError("The body names a field twice.")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise KeyturnError("validation_error", "A number in the body has too many digits.")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise KeyturnError("validation_error", "A number in the body is out of range.")
    return number


def _constant(text: str) -> NoReturn:
    raise ParseError("NaN and Infinity are not JSON.")


def _check_texts(value: Any) -> None:
    """NUL and halves of surrogate pairs cannot be stored; they are refused before anything reads them."""
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise KeyturnError("validation_error", "A text holds a character that is not allowed.")
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_texts(name)
            _check_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner)
