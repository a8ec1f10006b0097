"""The row MAC: a database writer must not be able to un-revoke, widen or repoint.

Every writer of a protected row calls ``sign`` before saving; every path that acts on one calls
``verify`` first.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.mac import Field, row_mac
from keyvault.keystore import keys


class Protected(Protocol):
    mac: bytes | memoryview

    def mac_fields(self) -> tuple[Field, ...]: ...


def _mac(row: Protected) -> bytes:
    return row_mac(keys().service.row_mac, type(row).__name__.lower(), *row.mac_fields())


def sign(row: Protected) -> None:
    row.mac = _mac(row)


def verify(row: Protected) -> None:
    """Raise ``IntegrityError`` unless the row is as one of our writers left it."""
    if not hmac.compare_digest(bytes(row.mac), _mac(row)):
        raise IntegrityError
