"""Idempotency-Key on POST"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from keyvault import clock
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import AuditEvent, Consumer, ConsumerToken, IdempotentReply, Team
from keyvault.services import people, replies
from rotation.models import Rotation
from tests.api.management.world import World, key_path, problem, start
from tests.integration.furniture import PATIENCE


def tokens(world: World) -> str:
    return f"/v1/consumers/{world.consumer().slug}/tokens/"


class TestReplay:
    def test_the_same_answer_and_no_second_effect(self, world: World) -> None:
        path = tokens(world)
        first = world.lead.post(path, {"environment": "dev"}, Idempotency_Key="k1")
        second = world.lead.post(path, {"environment": "dev"}, Idempotency_Key="k1")
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert second["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first
        assert ConsumerToken.objects.count() == 1

    def test_the_order_of_members_does_not_matter(self, world: World) -> None:
        path = tokens(world)
        world.lead.post(path, b'{"environment": "dev", "expires_in": "PT1H"}', Idempotency_Key="k")
        again = world.lead.post(path, b'{"expires_in":"PT1H","environment":"dev"}', Idempotency_Key="k")
        assert again["Idempotent-Replayed"] == "true"

    def test_a_kept_token_lies_sealed(self, world: World) -> None:
        path = tokens(world)
        token = world.lead.post(path, {"environment": "dev"}, Idempotency_Key="k").json()["token"]
        row = IdempotentReply.objects.get()
        assert row.ciphertext is not None
        assert token.encode() not in bytes(row.ciphertext)
        assert token not in row.request_digest

    def test_a_refusal_is_replayed_too(self, world: World) -> None:
        first = world.admin.post("/v1/teams/", {"slug": "imaging"}, Idempotency_Key="k")
        Team.objects.filter(slug="imaging").update(slug="moved")
        second = world.admin.post("/v1/teams/", {"slug": "imaging"}, Idempotency_Key="k")
        assert (first.status_code, second.status_code) == (400, 400)
        assert first.json() == second.json()
        assert second["Idempotent-Replayed"] == "true"

    def test_a_refusal_leaves_no_effect_behind(self, world: World) -> None:
        service = world.service()
        body = {"environment": "dev", "policy": "none", "secret": "sk_0123456789abcdef"}
        answer = world.lead.post(f"/v1/services/{service.slug}/keys/", body, Idempotency_Key="k")
        assert answer.status_code == 400
        assert not service.keys.exists()

    def test_what_a_refused_request_had_done_is_undone(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def half(*args: Any, now: datetime, **kwargs: Any) -> None:
            Team.objects.create(slug="half", name="Half", created_at=now)
            raise KeyturnError("invalid_transition", "Not now.")

        monkeypatch.setattr(people, "create_team", half)
        assert world.admin.post("/v1/teams/", {"slug": "x"}, Idempotency_Key="k").status_code == 409
        assert not Team.objects.filter(slug="half").exists()
        assert IdempotentReply.objects.get().status == 409

    def test_the_etag_comes_back(self, world: World) -> None:
        path = start(world, world.key())
        first = world.lead.post(f"{path}pause/", {"reason": "x"}, Idempotency_Key="k")
        second = world.lead.post(f"{path}pause/", {"reason": "x"}, Idempotency_Key="k")
        assert second["ETag"] == first["ETag"]
        assert second.json() == first.json()
        assert AuditEvent.objects.filter(name="rotation:paused").count() == 1

    def test_callers_do_not_share_keys(self, world: World) -> None:
        path = key_path(world.key(), "rotations/")
        dry = {"dry_run": True}
        world.lead.post(path, dry, Idempotency_Key="k")
        assert "Idempotent-Replayed" not in world.operator.post(path, dry, Idempotency_Key="k")

    def test_after_a_day_the_key_is_new(self, world: World) -> None:
        world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        IdempotentReply.objects.update(created_at=world.now - timedelta(hours=25))
        answer = world.admin.post("/v1/teams/", {"slug": "two"}, Idempotency_Key="k")
        assert answer.status_code == 201
        assert IdempotentReply.objects.count() == 1
        IdempotentReply.objects.update(created_at=world.now - timedelta(hours=25))
        assert replies.forget_expired(now=world.now) == 1


class TestMismatch422:
    @pytest.mark.parametrize("body", [{"slug": "two"}, {"slug": "one", "name": "One"}])
    def test_another_body(self, world: World, body: dict[str, Any]) -> None:
        world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        error = problem(world.admin.post("/v1/teams/", body, Idempotency_Key="k"))
        assert error["code"] == "idempotency_mismatch"
        assert not Team.objects.filter(slug="two").exists()

    def test_another_path(self, world: World) -> None:
        body = {"slug": "same", "team": "imaging"}
        first, second = tokens(world), tokens(world)
        assert world.lead.post("/v1/consumers/", body, Idempotency_Key="k").status_code == 201
        world.lead.post(first, {"environment": "dev"}, Idempotency_Key="j")
        assert world.lead.post(second, {"environment": "dev"}, Idempotency_Key="j").status_code == 422


class TestInFlight409:
    def test_a_claim_that_is_being_worked_on(self, world: World) -> None:
        world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        IdempotentReply.objects.update(status=None)
        answer = world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        assert problem(answer)["code"] == "idempotency_in_flight"

    def test_a_claim_whose_owner_died_is_taken_over(self, world: World) -> None:
        digest = replies.request_digest("POST", "/v1/teams/", "", '{"slug":"one"}')
        caller = f"user:{world.admin.user.pk}"
        dead = replies.claim(caller, "k", digest, now=clock.now() - timedelta(minutes=2))
        assert isinstance(dead, replies.Claim)
        answer = world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        assert answer.status_code == 201

        @transaction.atomic
        def too_late() -> None:
            people.create_team(world.admin.actor, slug="late", name="", now=world.now)
            replies.keep(dead, 201, Secret("{}"))

        with pytest.raises(KeyturnError):
            too_late()
        assert not Team.objects.filter(slug="late").exists()


class TestErrors:
    def test_an_answer_of_500_keeps_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(people, "create_team", broken)
            with pytest.raises(RuntimeError):
                world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        assert not IdempotentReply.objects.exists()
        answer = world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key="k")
        assert answer.status_code == 201

    @pytest.mark.parametrize("key", ["", " ", "a b", "a,b", "x" * 256, "é"])
    def test_an_odd_key_is_400(self, world: World, key: str) -> None:
        error = problem(world.admin.post("/v1/teams/", {"slug": "one"}, Idempotency_Key=key))
        assert error["code"] == "validation_error"
        assert not Team.objects.filter(slug="one").exists()

    def test_a_body_that_is_no_json_keeps_nothing(self, world: World) -> None:
        answer = world.admin.post("/v1/teams/", b"{", Idempotency_Key="k")
        assert problem(answer)["code"] == "malformed_json"
        assert not IdempotentReply.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestConcurrent:
    def test_of_many_twins_one_works_and_all_agree(self) -> None:
        world = World()
        consumer = Consumer.objects.create(slug="web", team=world.imaging, created_at=world.now)
        answers = together(
            8,
            lambda: world.lead.post(
                f"/v1/consumers/{consumer.slug}/tokens/", {"environment": "dev"}, Idempotency_Key="k"
            ),
        )
        assert {answer.status_code for answer in answers} <= {201, 409}
        made = {answer.json()["token"] for answer in answers if answer.status_code == 201}
        assert len(made) == 1
        assert ConsumerToken.objects.count() == 1
        assert AuditEvent.objects.filter(name="consumer:token:created").count() == 1

    def test_of_many_starts_without_a_key_one_wins(self) -> None:
        world = World()
        path = key_path(world.key(), "rotations/")
        answers = together(6, lambda: world.lead.post(path, {}))
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5
        assert Rotation.objects.count() == 1

    def test_of_many_creations_of_one_slug_one_wins(self) -> None:
        world = World()
        answers = together(6, lambda: world.admin.post("/v1/teams/", {"slug": "rush"}))
        assert sorted({answer.status_code for answer in answers} - {201}) in ([400], [409], [400, 409])
        assert [answer.status_code for answer in answers].count(201) == 1


def together(number: int, call: Callable[[], Any]) -> list[Any]:
    """Make the same call from several threads at once; each has a database connection of its own."""
    barrier = threading.Barrier(number)
    answers: list[Any] = []

    def run() -> None:
        barrier.wait(PATIENCE)
        try:
            answers.append(call())
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(answers) == number
    return answers
