"""The row MAC: a database writer must not be able to un-revoke, widen or repoint.

Every writer of a protected row calls ``sign`` before saving; every path that acts on one calls
``verify`` first.
"""

from __future__ import annotations

from typing import Protocol

from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.mac import Field, row_mac, row_mac_matches
from keyvault.keystore import keys


class Protected(Protocol):
    mac: bytes | memoryview

    def mac_fields(self) -> tuple[Field, ...]: ...


def _table(row: Protected) -> str:
    return type(row).__name__.lower()


def sign(row: Protected) -> None:
    row.mac = row_mac(keys().service.row_mac, _table(row), *row.mac_fields())


def verify(row: Protected) -> None:
    """Raise ``IntegrityError`` unless the row is as one of our writers left it."""
    if not row_mac_matches(bytes(row.mac), keys().service.row_mac, _table(row), *row.mac_fields()):
        raise IntegrityError
