"""Lists in pages: ``?cursor=&limit=`` -> ``{"items": [...], "next_cursor": …}``.

A page begins behind the last row of the one before (keyset), so rows that come and go shift nothing. The
cursor is opaque and signed: it fits the list that it came from and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet

from keyvault.api.serializers import QueryIntegerField, StrictCharField, StrictSerializer
from keyvault.crypto.mac import keyed_digest
from keyvault.exceptions import invalid
from keyvault.keystore import keys

MAX_LIMIT = 200
DEFAULT_LIMIT = 50
_MARK = 16

Row = TypeVar("Row", bound=Model)


class PageQuery(StrictSerializer):
    cursor = StrictCharField(required=False, max_length=1024, help_text="`next_cursor` of the page before.")
    limit = QueryIntegerField(low=1, high=MAX_LIMIT, required=False, help_text="1 to 200, default 50.")


def _mark(name: str, payload: bytes) -> bytes:
    return keyed_digest(keys().service.etag, f"cursor:{name}", payload)[:_MARK].encode()


def encode_cursor(name: str, values: Sequence[Any]) -> str:
    """The cursor behind a row with these values in the order of list ``name``."""
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    payload = json.dumps([value if isinstance(value, int) else str(value) for value in plain]).encode()
    return base64.urlsafe_b64encode(_mark(name, payload) + payload).decode().rstrip("=")


def decode_cursor(name: str, text: str) -> list[Any]:
    """The values of a cursor that this list gave out. Raises ``validation_error``."""
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise invalid("cursor", "Use the next_cursor of the page before.") from None
    mark, payload = raw[:_MARK], raw[_MARK:]
    if not hmac.compare_digest(mark, _mark(name, payload)):
        raise invalid("cursor", "Use the next_cursor of the page before.")
    values: list[Any] = json.loads(payload)
    return values


def _value(row: Model, path: str) -> Any:
    found: Any = row
    for part in path.split("__"):
        found = getattr(found, part)
    return found


def _behind(order: Sequence[str], values: Sequence[Any]) -> Q:
    """Rows behind these values: greater in the first column, or equal there and greater in the next, …"""
    found = Q()
    equal = Q()
    for name, value in zip(order, values, strict=True):
        column = name.removeprefix("-")
        comparison = "lt" if name.startswith("-") else "gt"
        found |= equal & Q(**{f"{column}__{comparison}": value})
        equal &= Q(**{column: value})
    return found


def paginate(
    rows: QuerySet[Row],
    parameters: dict[str, Any],
    *,
    name: str,
    order: Sequence[str],
    show: Callable[[Sequence[Row]], list[Any]],
) -> dict[str, Any]:
    """One page. ``order`` must end in a column that is unique; ``show`` turns the rows into items."""
    limit = parameters.get("limit", DEFAULT_LIMIT)
    if "cursor" in parameters:
        rows = rows.filter(_behind(order, decode_cursor(name, parameters["cursor"])))
    found = list(rows.order_by(*order)[: limit + 1])
    more = len(found) > limit
    page = found[:limit]
    cursor = None
    if more:
        cursor = encode_cursor(name, [_value(page[-1], column.removeprefix("-")) for column in order])
    return {"items": show(page), "next_cursor": cursor}
