"""What a count means for a request"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from keyvault.limits import Window

NOW = datetime(2026, 5, 4, 10, 0, 15, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(("count", "remaining"), [(1, "2"), (3, "0")])
def test_a_request_within_the_limit(count: int, remaining: str) -> None:
    window = Window.at(3, count, NOW)
    assert not window.exceeded
    assert window.headers == (
        ("RateLimit-Limit", "3"),
        ("RateLimit-Remaining", remaining),
        ("RateLimit-Reset", "45"),
    )


def test_a_request_above_the_limit_is_told_when_to_come_back() -> None:
    window = Window.at(3, 4, NOW)
    assert window.exceeded
    assert window.headers == (
        ("RateLimit-Limit", "3"),
        ("RateLimit-Remaining", "0"),
        ("RateLimit-Reset", "45"),
        ("Retry-After", "45"),
    )


@pytest.mark.parametrize(("second", "reset"), [(0, 60), (59, 1)])
def test_the_reset_is_never_zero(second: int, reset: int) -> None:
    assert Window.at(1, 1, NOW.replace(second=second)).reset == reset
