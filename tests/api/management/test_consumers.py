"""/v1/consumers/ and their tokens"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.keystore import keys
from keyvault.models import Consumer, ConsumerToken
from tests.api.management.world import World, problem, unique


def tokens(consumer: Consumer) -> str:
    return f"/v1/consumers/{consumer.slug}/tokens/"


class TestConsumers200:
    def test_each_sees_the_own(self, world: World) -> None:
        mine, theirs = world.consumer(), world.consumer(team=world.billing)
        assert [item["slug"] for item in world.viewer.get("/v1/consumers/").json()["items"]] == [mine.slug]
        assert world.stranger.get(f"/v1/consumers/{theirs.slug}/").json()["team"] == "billing"

    def test_a_list_of_tokens_shows_prefixes_and_no_token(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev"}).json()
        answer = world.viewer.get(tokens(consumer))
        assert answer.json()["items"][0]["prefix"] == made["prefix"]
        assert made["token"] not in answer.content.decode()


class TestConsumers201:
    def test_a_lead_creates_a_consumer(self, world: World) -> None:
        answer = world.lead.post("/v1/consumers/", {"slug": "web", "team": "imaging"})
        assert answer.status_code == 201
        assert Consumer.objects.get(slug="web").team == world.imaging

    def test_a_token_is_shown_once_and_stored_as_a_digest(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev", "rate_limit": "90/min"}).json()
        parsed = parse(made["token"])
        assert parsed is not None
        assert (parsed.kind, parsed.environment) == (TokenKind.CONSUMER, "dev")
        stored = ConsumerToken.objects.get(pk=made["id"])
        assert bytes(stored.digest) == digest(keys().service.pepper, made["token"])
        assert stored.rate_per_minute == 90
        assert made["rate_limit"] == "90/min"
        assert made["expires_at"] is None

    def test_tokens_for_production_expire_after_90_days(self, world: World) -> None:
        made = world.lead.post(tokens(world.consumer()), {"environment": "prod"}).json()
        life = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
        assert life == timedelta(days=90)

    def test_an_expiry_and_networks(self, world: World) -> None:
        made = world.lead.post(
            tokens(world.consumer()),
            {"environment": "dev", "expires_in": "PT1H", "cidrs": ["10.1.0.0/16", "2001:db8::/32"]},
        ).json()
        life = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
        assert life == timedelta(hours=1)
        assert made["cidrs"] == ["10.1.0.0/16", "2001:db8::/32"]

    def test_an_instance_limit(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev", "instance_limit": 3}).json()
        assert made["instance_limit"] == 3
        for more in ({}, {"instance_limit": None}):
            free = world.lead.post(tokens(consumer), {"environment": "dev", **more}).json()
            assert free["instance_limit"] is None
        shown = world.viewer.get(tokens(consumer)).json()["items"]
        assert {item["id"]: item["instance_limit"] for item in shown}[made["id"]] == 3
        assert ConsumerToken.objects.get(pk=made["id"]).instance_limit == 3

    def test_a_rotated_token_works_on_for_the_grace(self, world: World) -> None:
        consumer = world.consumer()
        options = {"environment": "dev", "rate_limit": "7/min", "instance_limit": 2}
        old = world.lead.post(tokens(consumer), options).json()
        new = world.lead.post(f"{tokens(consumer)}{old['id']}/rotate/", {"grace": "PT10M"}).json()
        assert new["replaces"] == old["id"]
        assert new["token"] != old["token"]
        assert (new["rate_limit"], new["instance_limit"]) == ("7/min", 2)
        before = ConsumerToken.objects.get(pk=old["id"])
        assert before.expires_at is not None
        assert timedelta(minutes=9) < before.expires_at - world.now < timedelta(minutes=11)


class TestConsumers204:
    def test_a_revoked_token_is_dated_and_revoking_twice_is_harmless(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev"}).json()
        assert world.lead.delete(f"{tokens(consumer)}{made['id']}/").status_code == 204
        assert world.lead.delete(f"{tokens(consumer)}{made['id']}/").status_code == 204
        assert ConsumerToken.objects.get(pk=made["id"]).revoked_at is not None


class TestConsumers400:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("environment", "qa"),
            ("environment", 5),
            ("expires_in", 3600),
            ("expires_in", "3600"),
            ("expires_in", "PT0S"),
            ("expires_in", "P20Y"),
            ("expires_in", "-PT5M"),
            ("cidrs", "10.0.0.0/8"),
            ("cidrs", ["10.0.0.1/8"]),
            ("cidrs", [5]),
            ("cidrs", ["everywhere"]),
            ("rate_limit", 600),
            ("rate_limit", "600"),
            ("rate_limit", "0/min"),
            ("rate_limit", "600/s"),
            ("rate_limit", "9999999/min"),
            ("instance_limit", 0),
            ("instance_limit", -1),
            ("instance_limit", 10_001),
            ("instance_limit", "3"),
            ("instance_limit", 1.0),
            ("instance_limit", True),
        ],
    )
    def test_a_token_with_odd_options(self, world: World, field: str, value: object) -> None:
        answer = world.lead.post(tokens(world.consumer()), {"environment": "dev", field: value})
        error = problem(answer)
        assert error["code"] == "validation_error"
        assert any(name.partition(".")[0] == field for name in error["fields"])
        assert not ConsumerToken.objects.exists()

    @pytest.mark.parametrize("grace", [None, 60, "60", "", "PT"])
    def test_an_odd_grace(self, world: World, grace: object) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev"}).json()
        answer = world.lead.post(f"{tokens(consumer)}{made['id']}/rotate/", {"grace": grace})
        assert "grace" in problem(answer)["fields"]


class TestConsumers403:
    def test_only_leads_make_and_end_tokens(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev"}).json()
        for person in (world.operator, world.viewer, world.auditor):
            slug = unique("c")
            assert person.post("/v1/consumers/", {"slug": slug, "team": "imaging"}).status_code == 403
            assert person.post(tokens(consumer), {"environment": "dev"}).status_code == 403
            assert person.delete(f"{tokens(consumer)}{made['id']}/").status_code == 403
            rotated = person.post(f"{tokens(consumer)}{made['id']}/rotate/", {"grace": "PT1M"})
            assert rotated.status_code == 403


class TestConsumers404:
    def test_a_strangers_consumer(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev"}).json()
        assert world.stranger.get(f"/v1/consumers/{consumer.slug}/").status_code == 404
        assert world.stranger.get(tokens(consumer)).status_code == 404
        assert world.stranger.delete(f"{tokens(consumer)}{made['id']}/").status_code == 404

    def test_a_token_of_another_consumer(self, world: World) -> None:
        first, second = world.consumer(), world.consumer()
        made = world.lead.post(tokens(first), {"environment": "dev"}).json()
        assert world.lead.delete(f"{tokens(second)}{made['id']}/").status_code == 404
        assert ConsumerToken.objects.get(pk=made["id"]).revoked_at is None


class TestConsumers409:
    def test_a_revoked_token_has_no_successor(self, world: World) -> None:
        consumer = world.consumer()
        made = world.lead.post(tokens(consumer), {"environment": "dev"}).json()
        world.lead.delete(f"{tokens(consumer)}{made['id']}/")
        answer = world.lead.post(f"{tokens(consumer)}{made['id']}/rotate/", {"grace": "PT1M"})
        assert problem(answer)["code"] == "invalid_transition"
