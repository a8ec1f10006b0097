"""What is written down: rows in a batch, and the time that they carry."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from keyvault.delivery import timing
from keyvault.delivery.rows import (
    DELIVERY_COLUMNS,
    VERIFICATION_COLUMNS,
    Batch,
    DeliveryRow,
    VerificationCount,
    VerificationRow,
)
from keyvault.delivery.timing import DatabaseClock
from keyvault.models import Delivery, Verification

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
VERSION, OTHER, CONSUMER = b"v" * 16, b"o" * 16, b"c" * 16


def test_the_columns_are_those_of_the_tables() -> None:
    for model, columns in ((Delivery, DELIVERY_COLUMNS), (Verification, VERIFICATION_COLUMNS)):
        assert {field.column for field in model._meta.concrete_fields} - {"id"} == set(columns)
    assert len(VerificationCount._fields) == len(VERIFICATION_COLUMNS)


def test_each_delivery_is_a_row_and_equal_verifications_are_counted() -> None:
    batch = Batch()
    row = DeliveryRow(
        NOW, VERSION, VERSION, CONSUMER, VERSION, "web-1", "current", "consumer_token", 200, "r"
    )
    for one in (row, None, row):
        batch.add(one)
    for seconds, version, consumer, code in (
        (1, VERSION, CONSUMER, "valid"),
        (3, VERSION, CONSUMER, "valid"),
        (2, VERSION, CONSUMER, "valid"),
        (4, VERSION, None, "valid"),
        (5, VERSION, CONSUMER, "revoked"),
        (6, OTHER, CONSUMER, "valid"),
    ):
        batch.add(VerificationRow(NOW + seconds * SECOND, version, consumer, code))
    assert batch.deliveries == [row, row]
    assert batch.verifications == [
        (NOW + 3 * SECOND, VERSION, CONSUMER, "valid", 3),
        (NOW + 4 * SECOND, VERSION, None, "valid", 1),
        (NOW + 5 * SECOND, VERSION, CONSUMER, "revoked", 1),
        (NOW + 6 * SECOND, OTHER, CONSUMER, "valid", 1),
    ]


# The clock -----------------------------------------------------------------------------------------


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """This host's monotonic clock; the test moves it on."""
    at = [500.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


def test_the_clock_goes_on_from_what_the_database_told(ticking: list[float]) -> None:
    clock = DatabaseClock()
    clock.tell(NOW)
    assert clock.now() == NOW
    ticking[0] += 2.5
    assert clock.now() == NOW + 2.5 * SECOND
    clock.tell(NOW + 2 * SECOND)
    assert clock.now() == NOW + 2 * SECOND


def test_until_the_database_has_told_it_is_this_hosts_time() -> None:
    before = datetime.now(UTC)
    assert before <= DatabaseClock().now() <= datetime.now(UTC)


def test_the_time_of_this_host_does_not_matter_afterwards(
    ticking: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            raise AssertionError("this host was asked for the time")

    clock = DatabaseClock()
    clock.tell(NOW)
    monkeypatch.setattr(timing, "datetime", Wrong)
    ticking[0] += 1
    assert clock.now() == NOW + SECOND
