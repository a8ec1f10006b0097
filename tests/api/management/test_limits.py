"""Requests per minute of one user token"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from keyvault import clock
from tests.api.management.world import World, problem


@pytest.fixture
def moment(world: World, monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The clock, standing in the middle of a minute; tests move it."""
    times = [world.now.replace(second=15) + timedelta(minutes=1)]
    monkeypatch.setattr(clock, "now", lambda: times[-1])
    return times


class TestLimits200:
    def test_every_answer_tells_the_limit(self, world: World, moment: list[datetime]) -> None:
        first, second = world.lead.get("/v1/teams/"), world.lead.get("/v1/teams/none/")
        assert (first["RateLimit-Limit"], first["RateLimit-Remaining"]) == ("600", "599")
        assert (second["RateLimit-Limit"], second["RateLimit-Remaining"]) == ("600", "598")
        assert first["RateLimit-Reset"] == "45"

    def test_the_next_minute_begins_anew(self, world: World, settings: Any, moment: list[datetime]) -> None:
        settings.KEYTURN_API_RATE = "1/min"
        assert world.lead.get("/v1/teams/").status_code == 200
        assert world.lead.get("/v1/teams/").status_code == 429
        moment.append(moment[-1] + timedelta(seconds=46))
        assert world.lead.get("/v1/teams/").status_code == 200


class TestLimits429:
    def test_the_limit_is_exact_and_each_token_has_its_own(
        self, world: World, settings: Any, moment: list[datetime]
    ) -> None:
        settings.KEYTURN_API_RATE = "5/min"
        answers = [world.lead.get("/v1/teams/") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert problem(answers[-1])["code"] == "rate_limited"
        assert answers[-1]["Retry-After"] == "45"
        assert answers[-1]["RateLimit-Remaining"] == "0"
        assert world.viewer.get("/v1/teams/").status_code == 200

    def test_refused_writes_do_nothing(self, world: World, settings: Any, moment: list[datetime]) -> None:
        settings.KEYTURN_API_RATE = "1/min"
        world.admin.get("/v1/teams/")
        assert world.admin.post("/v1/teams/", {"slug": "late"}, Idempotency_Key="k").status_code == 429
        moment.append(moment[-1] + timedelta(minutes=1))
        assert world.admin.get("/v1/teams/late/").status_code == 404
