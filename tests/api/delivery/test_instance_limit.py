"""GET /v1/keys/{service}/{environment}/ with a token that has an instance limit; two web processes answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvault.models import AuditEvent, ConsumerToken, Seat
from keyvault.services import seats
from tests.api.delivery.world import World
from tests.api.wire import Reply

AT_ONCE = 16


class Limited:
    """The world's consumer with a second token, for ``limit`` instances."""

    def __init__(self, world: World, limit: int) -> None:
        self.world = world
        self.row, self.token = world.new_token(instances=limit)

    def ask(self, instance: str, query: str = "", method: str = "GET") -> Reply:
        target = f"{self.world.path}?instance={instance}{query}"
        return self.world.server.send(method, target, ("X-API-Key", self.token))

    def seated(self) -> set[str]:
        return set(Seat.objects.filter(token=self.row).values_list("instance", flat=True))


@pytest.fixture
def limited(world: World) -> Limited:
    return Limited(world, 2)


class Test200:
    def test_the_same_instances_again_and_again(self, limited: Limited) -> None:
        replies = [limited.ask(f"web-{n % 2}") for n in range(20)]
        assert {reply.status for reply in replies} == {200}
        assert limited.seated() == {"web-0", "web-1"}

    def test_of_many_that_come_at_once_as_many_as_the_limit_says(self, limited: Limited) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            replies = list(pool.map(lambda n: limited.ask(f"web-{n}"), range(2 * AT_ONCE)))
            # Each process has to find it out for itself, so everybody asks again.
            again = list(pool.map(lambda n: limited.ask(f"web-{n}"), range(2 * AT_ONCE)))
        statuses = [reply.status for reply in replies]
        assert sorted(statuses) == [200] * 2 + [403] * (2 * AT_ONCE - 2)
        assert [reply.status for reply in again] == statuses
        given = {row.instance for row in limited.world.deliveries()}
        assert given == limited.seated() == {f"web-{n}" for n, status in enumerate(statuses) if status == 200}

    def test_the_caller_is_told_of_the_limit(self, limited: Limited) -> None:
        told = limited.world.server.send("GET", "/v1/auth/whoami/", ("X-API-Key", limited.token)).json
        assert told["instance_limit"] == 2
        assert not limited.seated(), "only fetching takes a seat"


class Test400:
    def test_an_instance_without_a_name(self, limited: Limited) -> None:
        reply = limited.world.server.send("GET", limited.world.path, ("X-API-Key", limited.token))
        assert (reply.status, reply.code) == (400, "validation_error")
        assert "X-Instance-ID" in reply.error["fields"]["instance"][0]
        named = limited.world.server.send(
            "GET", limited.world.path, ("X-API-Key", limited.token), ("X-Instance-ID", "web-0")
        )
        assert named.status == 200
        assert limited.seated() == {"web-0"}


class Test403:
    def test_one_instance_more(self, limited: Limited) -> None:
        assert [limited.ask(name).status for name in ("web-0", "web-1")] == [200, 200]
        reply = limited.ask("web-2")
        assert (reply.status, reply.code) == (403, "permission_denied")
        assert "instance limit of this token is 2" in reply.error["message"]
        assert limited.world.secret.encode() not in reply.body
        assert len(limited.world.deliveries()) == 2
        event = AuditEvent.objects.get(name=seats.EVENT, subject=str(limited.row.id))
        assert (event.details["instance"], event.details["address"]) == ("web-2", "127.0.0.1")
        assert event.request_id == reply.headers["x-request-id"]

    def test_every_way_to_fetch_counts(self, limited: Limited) -> None:
        assert limited.ask("web-0", method="HEAD").status == 200
        assert limited.ask("web-1", "&version=1&format=raw").status == 200
        assert limited.ask("web-2", method="HEAD").status == 403
        watching = f"{limited.world.path}watch/?instance=web-2&timeout=1"
        assert limited.world.server.send("GET", watching, ("X-API-Key", limited.token)).status == 403

    def test_an_access_token_has_the_seats_of_its_parent(self, limited: Limited) -> None:
        world = limited.world
        minted = world.server.send(
            "POST", "/v1/auth/access-token/", ("X-API-Key", limited.token), body=b"{}"
        ).json["access_token"]

        def ask(instance: str) -> int:
            target = f"{world.path}?instance={instance}"
            return world.server.send("GET", target, ("Authorization", f"AccessToken {minted}")).status

        assert [ask("web-0"), ask("web-1"), ask("web-2"), limited.ask("web-2").status] == [200, 200, 403, 403]

    def test_a_caller_without_a_grant_takes_no_seat(self, limited: Limited) -> None:
        limited.world.grant(["report"])
        assert limited.ask("web-0").status == 403
        assert not limited.seated()


class Test404:
    def test_who_asks_for_what_is_not_there_takes_no_seat(self, limited: Limited) -> None:
        assert limited.ask("web-0", "&version=99").status == 404
        assert not limited.seated()


class Test503:
    def test_a_limit_that_somebody_changed(self, limited: Limited) -> None:
        for value in (50, None):
            ConsumerToken.objects.filter(pk=limited.row.pk).update(instance_limit=value)
            assert limited.ask("web-0").code == "integrity_error"
