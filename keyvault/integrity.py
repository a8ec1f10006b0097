"""The row MAC: a database writer must not be able to un-revoke, widen or repoint.

Every writer of a protected row calls ``sign`` before saving; every path that acts on one calls
``verify`` first.
"""

from __future__ import annotations

from typing import Any, Protocol

from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.mac import Field, row_mac, row_mac_matches
from keyvault.keystore import keys


class Protected(Protocol):
    mac: bytes | memoryview

    def mac_fields(self) -> tuple[Field, ...]: ...


def _table(model: type[Protected]) -> str:
    return model.__name__.lower()


def sign(row: Protected) -> None:
    row.mac = row_mac(keys().service.row_mac, _table(type(row)), *row.mac_fields())


def verify(row: Protected) -> None:
    """Raise ``IntegrityError`` unless the row is as one of our writers left it."""
    if not intact(type(row), row):
        raise IntegrityError


def intact(model: type[Protected], row: Any) -> bool:
    """Whether a row is as one of our writers left it. ``row`` has the model's columns as attributes."""
    return row_mac_matches(bytes(row.mac), keys().service.row_mac, _table(model), *model.mac_fields(row))
