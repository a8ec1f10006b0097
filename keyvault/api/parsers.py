"""JSON as the contract takes it, for DRF: one media type, one encoding, bounded, strict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import IO, Any, Final

from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import BaseParser

from keyvault import strict_json
from keyvault.errors import MAX_BODY_BYTES
from keyvault.exceptions import KeyturnError

_NOT_STORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class StrictJSONParser(BaseParser):
    """``application/json`` in UTF-8, not compressed. Messages say what is wrong, never what was sent."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        if not strict_json.is_json_type(media_type or ""):
            raise UnsupportedMediaType(media_type or "")
        meta = getattr((parser_context or {}).get("request"), "META", {})
        if meta.get("HTTP_CONTENT_ENCODING", "identity") not in ("", "identity"):
            raise UnsupportedMediaType(media_type or "")
        raw: bytes = stream.read(MAX_BODY_BYTES + 1)
        if len(raw) > MAX_BODY_BYTES:
            raise KeyturnError("payload_too_large", "The body is larger than 64 KiB.")
        value = strict_json.parse(raw)
        refuse_unusable(value)
        return value


def refuse_unusable(value: object) -> None:
    """Raise ``validation_error`` for what neither a rule nor the database can take, wherever it stands."""
    if isinstance(value, str):
        if _NOT_STORABLE.search(value):
            raise KeyturnError("validation_error", "A text in the body has a character that is not allowed.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise KeyturnError("validation_error", "The body has a number that is not finite.")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            refuse_unusable(name)
            refuse_unusable(inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_unusable(inner)
