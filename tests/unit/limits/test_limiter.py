"""The one interface to counting"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault.limits import Limiter, limiter, subject
from keyvault.limits.cells import Cells

NOW = datetime(2026, 5, 4, 10, 0, 15, tzinfo=UTC)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Limiter]:
    made = Limiter(Cells(tmp_path / "limits.cells", 64))
    yield made
    made.close()


def test_without_redis_nothing_has_to_be_waited_for(local: Limiter) -> None:
    assert local.local
    mine = uuid.uuid4().bytes

    async def hits() -> list[int]:
        return [local.hit(mine, NOW), await local.hit_async(mine, NOW), local.hit(mine, NOW)]

    assert asyncio.run(hits()) == [1, 2, 3]


def test_the_minute_is_that_of_utc(local: Limiter) -> None:
    mine = subject("someone")
    last = NOW.replace(second=59, microsecond=999_999)
    assert [local.hit(mine, moment) for moment in (NOW.replace(second=0), last)] == [1, 2]
    assert local.hit(mine, last + timedelta(microseconds=1)) == 1


def test_a_text_is_counted_under_sixteen_bytes_of_its_own() -> None:
    assert len(subject("")) == len(subject("é" * 1000)) == 16
    assert subject("a") == subject("a") != subject("b")


def test_the_process_has_one_limiter_made_from_its_settings(tmp_path: Path, settings: Any) -> None:
    settings.KEYTURN_RATE_FILE = tmp_path / "elsewhere.cells"
    settings.KEYTURN_RATE_CELLS = 32
    limiter.cache_clear()
    try:
        made = limiter()
        assert made is limiter()
        assert made.local
        assert made.hit(subject("someone"), NOW) == 1
        other = Cells(tmp_path / "elsewhere.cells", 32)
        assert other.hit(subject("someone"), int(NOW.timestamp()) // 60) == 2
        other.close()
        made.close()
    finally:
        limiter.cache_clear()


def test_an_address_that_is_not_redis_is_refused_without_naming_it(settings: Any, tmp_path: Path) -> None:
    settings.KEYTURN_RATE_FILE = tmp_path / "limits.cells"
    settings.KEYTURN_RATE_LIMIT_URL = "https://user:hidden@127.0.0.1/"
    limiter.cache_clear()
    try:
        with pytest.raises(ValueError, match="KEYTURN_RATE_LIMIT_URL") as refused:
            limiter()
        assert "hidden" not in str(refused.value)
    finally:
        limiter.cache_clear()
