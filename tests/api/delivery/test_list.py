"""GET /v1/keys/"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.models import Grant
from keyvault.services import catalogue, consumers, keys
from tests.api.delivery.world import World

Make = Callable[..., World]


def _another_key(world: World, suffix: str, verbs: list[str]) -> str:
    """One more service with a key that the consumer has these verbs on; returns its slug."""
    now = clock.now()
    service = catalogue.create_service(
        SYSTEM,
        slug=f"{world.service.slug}-{suffix}",
        team=world.service.team,
        provider=world.service.provider,
        description="",
        now=now,
    )
    keys.create_key(SYSTEM, service, world.environment, now=now)
    consumers.set_grant(SYSTEM, world.consumer, service, world.environment, verbs=verbs, now=now)
    return str(service.slug)


class Test200:
    def test_what_the_caller_may_read(self, make: Make) -> None:
        world, stranger = make(), make()
        readable = _another_key(world, "b", ["read"])
        _another_key(world, "c", ["report"])
        reply = world.send("GET", "/v1/keys/")
        assert reply.status == 200
        assert reply.json == {
            "items": [
                {
                    "service": slug,
                    "environment": "prod",
                    "provider": "backgrounderase",
                    "verbs": verbs,
                    "weight": None,
                }
                for slug, verbs in [
                    (world.service.slug, ["read", "versions", "report"]),
                    (readable, ["read"]),
                ]
            ],
            "next_cursor": None,
        }
        assert stranger.service.slug.encode() not in reply.body
        assert world.secret.encode() not in reply.body

    def test_pages_follow_each_other_without_gaps(self, world: World) -> None:
        slugs = [world.service.slug, *(_another_key(world, f"p{n}", ["read"]) for n in range(4))]
        seen: list[str] = []
        target = "/v1/keys/?limit=2"
        pages = 0
        while target:
            page = world.send("GET", target).json
            seen += [item["service"] for item in page["items"]]
            cursor = page["next_cursor"]
            target = f"/v1/keys/?limit=2&cursor={cursor}" if cursor else ""
            pages += 1
        assert (seen, pages) == (sorted(slugs), 3)

    def test_a_grant_without_a_key_is_not_listed(self, make: Make) -> None:
        world, other = make(), make(environment="dev")
        consumers.set_grant(
            SYSTEM, world.consumer, other.service, world.environment, verbs=["read"], now=clock.now()
        )
        assert len(world.send("GET", "/v1/keys/").json["items"]) == 1

    def test_an_access_token_sees_what_its_paths_cover(self, world: World) -> None:
        other = _another_key(world, "b", ["read"])
        token = world.access_token("/v1/keys/", f"/v1/keys/{other}/*")
        reply = world.server.send("GET", "/v1/keys/", ("Authorization", f"AccessToken {token}"))
        assert [item["service"] for item in reply.json["items"]] == [other]

    def test_head(self, world: World) -> None:
        assert world.send("HEAD", "/v1/keys/").body == b""


class Test400:
    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=1e2",
            "limit=+5",
            "limit=",
            "cursor=%20",
            "cursor=Zm9v_",
            "cursor=",
        ],
    )
    def test_odd_pages(self, world: World, query: str) -> None:
        reply = world.send("GET", f"/v1/keys/?{query}")
        assert (reply.status, reply.code) == (400, "validation_error")
        assert list(reply.error["fields"]) == [query.partition("=")[0]]

    def test_an_unknown_parameter(self, world: World) -> None:
        reply = world.send("GET", "/v1/keys/?order=password")
        assert (reply.status, reply.code) == (400, "unknown_field")


class Test401:
    def test_no_credential(self, world: World) -> None:
        assert world.server.send("GET", "/v1/keys/").code == "missing_api_key"

    def test_an_access_token_that_does_not_cover_the_list(self, world: World) -> None:
        token = world.access_token(world.path)
        reply = world.server.send("GET", "/v1/keys/", ("Authorization", f"AccessToken {token}"))
        assert (reply.status, reply.code) == (401, "path_not_allowed")


class Test405:
    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_other_methods(self, world: World, method: str) -> None:
        reply = world.send(method, "/v1/keys/")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


class Test503:
    def test_a_widened_grant(self, world: World) -> None:
        Grant.objects.filter(consumer=world.consumer).update(verbs=["read", "proxy"])
        assert world.send("GET", "/v1/keys/").code == "integrity_error"
