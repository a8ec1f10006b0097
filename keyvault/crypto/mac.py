"""Injective encodings and the keyed digests built on them."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from keyvault.crypto.secret import Secret

Field: TypeAlias = str | int | bytes | datetime | None

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def lp(*fields: bytes | str) -> bytes:
    """Join ``fields``, each behind its 4-byte big-endian length; ``str`` becomes UTF-8.

    Two different lists of fields never give the same bytes, which no separator can promise.
    """
    parts: list[bytes] = []
    for field in fields:
        raw = field.encode() if isinstance(field, str) else bytes(field)
        parts.append(len(raw).to_bytes(4, "big"))
        parts.append(raw)
    return b"".join(parts)


def _tagged(field: Field) -> bytes:
    """Encode one value behind a tag for its type, so that ``"1"``, ``1`` and ``b"1"`` differ."""
    if field is None:
        return b"n"
    if isinstance(field, str):
        return b"s" + field.encode()
    if isinstance(field, bytes):
        return b"b" + field
    if isinstance(field, datetime):
        if field.utcoffset() is None:
            raise ValueError("A row MAC needs times with a zone.")
        return b"t" + str((field - _EPOCH) // _MICROSECOND).encode()
    # int() first: databases differ in whether they answer True or 1.
    return b"i" + str(int(field)).encode()


def row_mac(key: bytes, table: str, *fields: Field) -> bytes:
    """Return the 32-byte HMAC-SHA256 over a table name and a row's fields, in this order.

    Times are taken in UTC to the microsecond, as both databases store them.
    Raises ``ValueError`` for a time without a zone.
    """
    return hmac.digest(key, lp("kv1/row", table, *map(_tagged, fields)), "sha256")


def row_mac_matches(mac: bytes, key: bytes, table: str, *fields: Field) -> bool:
    """Tell in constant time whether ``mac`` is the row MAC of these fields."""
    return hmac.compare_digest(bytes(mac), row_mac(key, table, *fields))


def keyed_digest(key: bytes, purpose: str, data: bytes) -> str:
    """Return 64 hex digits that stand for ``data``; digests of two purposes never meet."""
    return hmac.digest(key, lp("kv1/digest", purpose, data), "sha256").hex()


def fingerprint_digest(key: bytes, secret: Secret) -> str:
    """Return the 64 hex digits by which equal secrets are found without opening them."""
    return keyed_digest(key, "fingerprint", secret.expose().encode())


def fingerprint(key: bytes, secret: Secret) -> str:
    """Return the form people compare by eye: the digest's first 64 bits, ``3f9a-77c1-0b2e-d4aa``."""
    return short_fingerprint(fingerprint_digest(key, secret))


def short_fingerprint(digest: str) -> str:
    """Return the form for people of a stored ``fingerprint_digest``."""
    return "-".join(digest[start : start + 4] for start in range(0, 16, 4))
