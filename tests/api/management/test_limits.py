"""Requests per minute of one user token"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from keyvault import clock
from keyvault.domain import OrganisationRole
from keyvault.models import User
from keyvault.services import people
from tests.api.conftest import API_RATE, Server
from tests.api.management.world import World, problem, unique


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


@pytest.mark.serial
def test_two_processes_number_the_requests_of_a_token_together(installed: Server) -> None:
    def ask_at_once() -> list[tuple[int, int]]:
        """Forty requests of a fresh token: what remained, and the seconds to the end of the minute."""
        now = clock.now()
        user = User.objects.create(username=unique("limits"), organisation_role=OrganisationRole.ADMIN)
        _, token = people.create_user_token(user, expires_at=now + timedelta(hours=1), now=now)
        key = ("X-API-Key", token.expose())
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: installed.send("GET", "/v1/teams/", key).headers, range(40)))
        return [(int(told["ratelimit-remaining"]), int(told["ratelimit-reset"])) for told in answers]

    told = ask_at_once()
    seconds = [reset for _, reset in told]
    if max(seconds) - min(seconds) > 30:  # a minute has just ended among them; the next one is long
        told = ask_at_once()
    assert sorted(remaining for remaining, _ in told) == list(range(API_RATE - 40, API_RATE))
