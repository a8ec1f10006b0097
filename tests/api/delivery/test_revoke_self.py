"""POST /v1/auth/revoke-self/"""

from __future__ import annotations

import pytest

from keyvault.models import AuditEvent, ConsumerToken
from tests.api.delivery.world import World

PATH = "/v1/auth/revoke-self/"


class Test204:
    def test_the_token_ends_at_once_and_so_does_what_was_minted_from_it(self, world: World) -> None:
        access = world.access_token("*")
        reply = world.send("POST", PATH)
        assert (reply.status, reply.body) == (204, b"")
        assert world.get().code == "invalid_api_key"
        refused = world.server.send("GET", world.path, ("Authorization", f"AccessToken {access}"))
        assert (refused.status, refused.code) == (401, "invalid_access_token")

    def test_other_tokens_of_the_consumer_live_on(self, world: World) -> None:
        _, other = world.new_token()
        world.send("POST", PATH, body=b"{}")
        assert world.server.send("GET", world.path, ("X-API-Key", other)).status == 200

    def test_the_audit_knows_who_and_which_request(self, world: World) -> None:
        world.send("POST", PATH, ("X-Request-ID", "goodbye-1234"))
        event = AuditEvent.objects.get(name="consumer:token:revoked", subject=str(world.token_row.id))
        assert (event.actor_kind, event.actor, event.request_id) == (
            "consumer",
            world.consumer.slug,
            "goodbye-1234",
        )


class Test400:
    def test_a_body_with_fields(self, world: World) -> None:
        reply = world.send("POST", PATH, body=b'{"why": 1}')
        assert (reply.status, reply.code) == (400, "unknown_field")
        assert world.get().status == 200


class Test401:
    def test_no_credential(self, world: World) -> None:
        assert world.server.send("POST", PATH).code == "missing_api_key"


class Test403:
    def test_an_access_token_cannot_end_its_parent(self, world: World) -> None:
        access = world.access_token("*")
        reply = world.server.send("POST", PATH, ("Authorization", f"AccessToken {access}"))
        assert (reply.status, reply.code) == (403, "access_token_not_allowed")
        assert ConsumerToken.objects.get(pk=world.token_row.pk).revoked_at is None


class Test405:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_other_methods(self, world: World, method: str) -> None:
        reply = world.send(method, PATH)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


class Test415:
    def test_a_body_of_another_kind(self, world: World) -> None:
        reply = world.send("POST", PATH, ("Content-Type", "text/plain"), body=b"{}")
        assert (reply.status, reply.code) == (415, "unsupported_media_type")
