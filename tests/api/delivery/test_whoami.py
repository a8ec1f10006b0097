"""GET /v1/auth/whoami/"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from keyvault import clock
from keyvault.models import ConsumerToken
from tests.api.delivery.world import World

PATH = "/v1/auth/whoami/"


class Test200:
    def test_a_consumer_token(self, world: World) -> None:
        reply = world.send("GET", PATH)
        expires = world.token_row.expires_at
        assert expires is not None
        assert reply.json == {
            "consumer": world.consumer.slug,
            "environment": "prod",
            "credential": "consumer_token",
            "token": {
                "id": str(world.token_row.id),
                "hint": world.token_row.hint,
                "expires_at": expires.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            },
            "expires_at": expires.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "paths": None,
            "rate_limit": "100000/min",
            "instance_limit": None,
            "grants": [
                {
                    "service": world.service.slug,
                    "environment": "prod",
                    "verbs": ["read", "versions", "report"],
                }
            ],
        }
        assert world.token.encode() not in reply.body

    def test_an_access_token_tells_its_paths_and_its_own_expiry(self, world: World) -> None:
        token = world.access_token(PATH, world.path, expires_in=90)
        told = world.server.send("GET", PATH, ("Authorization", f"AccessToken {token}")).json
        assert (told["credential"], told["paths"]) == ("access_token", [PATH, world.path])
        left = datetime.fromisoformat(told["expires_at"]) - clock.now()
        assert timedelta(seconds=60) < left <= timedelta(seconds=90)


class Test401:
    def test_no_credential(self, world: World) -> None:
        assert world.server.send("GET", PATH).code == "missing_api_key"

    def test_an_access_token_outside_its_paths(self, world: World) -> None:
        token = world.access_token(world.path)
        assert (
            world.server.send("GET", PATH, ("Authorization", f"AccessToken {token}")).code
            == "path_not_allowed"
        )


class Test405:
    def test_other_methods(self, world: World) -> None:
        reply = world.send("POST", PATH, body=b"{}")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


class Test503:
    def test_a_token_row_that_was_moved_to_another_expiry(self, world: World) -> None:
        later = clock.now() + timedelta(days=365)
        ConsumerToken.objects.filter(pk=world.token_row.pk).update(expires_at=later)
        assert world.send("GET", PATH).code == "integrity_error"
