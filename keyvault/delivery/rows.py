"""What is written down about answers, as values, and the batch in which many of them are committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple


class DeliveryRow(NamedTuple):
    """One answer to a consumer. Ids are the 16 bytes of a UUID."""

    at: datetime
    key_id: bytes
    version_id: bytes
    consumer_id: bytes
    token_id: bytes
    instance: str
    label: str
    credential: str
    status: int
    request_id: str


class VerificationRow(NamedTuple):
    """One verification of a key that we issued. ``consumer_id`` is None where a gateway asked."""

    at: datetime
    version_id: bytes
    consumer_id: bytes | None
    code: str


class VerificationCount(NamedTuple):
    """Verifications of one version for one caller within a batch."""

    at: datetime
    version_id: bytes
    consumer_id: bytes | None
    code: str
    times: int


# The columns of ``keyvault.models.Delivery`` and ``Verification`` that these rows fill, in their order.
DELIVERY_COLUMNS: Final = DeliveryRow._fields
VERIFICATION_COLUMNS: Final = ("at", "version_id", "consumer_id", "code", "count")
Row = DeliveryRow | VerificationRow


@dataclass(slots=True)
class Batch:
    """The rows of one flush. Equal verifications are counted: use matters there, not each single call."""

    deliveries: list[DeliveryRow] = field(default_factory=list)
    _verified: dict[tuple[bytes, bytes | None, str], tuple[datetime, int]] = field(default_factory=dict)

    def add(self, row: Row | None) -> None:
        if type(row) is DeliveryRow:
            self.deliveries.append(row)
        elif type(row) is VerificationRow:
            name = (row.version_id, row.consumer_id, row.code)
            at, count = self._verified.get(name, (row.at, 0))
            self._verified[name] = (max(at, row.at), count + 1)

    @property
    def verifications(self) -> list[VerificationCount]:
        return [VerificationCount(at, *name, count) for name, (at, count) in self._verified.items()]
