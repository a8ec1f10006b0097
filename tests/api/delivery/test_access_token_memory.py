"""What a process remembers of an access token never outlives what made the token good."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault import clock, keystore
from keyvault.actors import SYSTEM
from keyvault.crypto.access_tokens import AccessTokenExpired, InvalidAccessToken, mint_access_token
from keyvault.crypto.keyring import Keys, load_keys
from keyvault.crypto.keyring_document import parse_document
from keyvault.crypto.keyring_file import replace_private
from keyvault.delivery import asgi as delivery
from keyvault.delivery.authenticate import Claims, audience, issuer
from keyvault.models import Grant
from keyvault.services import consumers
from tests.api.both import of_both
from tests.api.conftest import Server
from tests.api.delivery.expiring import good_at_first
from tests.api.delivery.world import World
from tests.api.wire import Reply
from tests.integration.processes import wait_for


def use(world: World, token: str) -> Reply:
    return world.server.send("GET", world.path, ("Authorization", f"AccessToken {token}"))


def codes(world: World, token: str) -> set[str]:
    """What both processes say; "" for a delivery."""
    replies = of_both(lambda: use(world, token))
    return {"" if reply.status == 200 else reply.code for reply in replies}


def with_another_key(text: str, *, kid: str = "sign-000000000000") -> str:
    """The keyring document with another signing key, and everything else as it was."""
    document = parse_document(text)
    service = replace(document.service, signing=Ed25519PrivateKey.generate(), signing_kid=kid)
    return replace(document, service=service).to_json()


@contextmanager
def another_signing_key(path: Path) -> Iterator[None]:
    before = path.read_text("utf-8")
    replace_private(path, with_another_key(before))
    try:
        yield
    finally:
        replace_private(path, before)


def first_answer(path: str, token: str) -> int:
    """The status that a process gives which has answered nothing yet."""
    statuses: list[int] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def one_request() -> None:
        headers = [(b"authorization", f"AccessToken {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": headers}
        await delivery.application({**scope, "query_string": b"", "client": None}, receive, send)
        await delivery.shut_down()

    keystore.forget_installation()
    asyncio.run(one_request())
    return statuses[0]


class TestOverTheWire:
    def test_it_may_be_the_first_that_a_process_is_asked(self, world: World) -> None:
        assert first_answer(world.path, world.access_token("*")) == 200

    def test_the_end_of_its_parent(self, world: World) -> None:
        token = world.access_token("*", expires_in=600)
        assert codes(world, token) == {""}
        consumers.revoke_token(SYSTEM, world.token_row, now=clock.now())
        assert codes(world, token) == {"invalid_access_token"}

    def test_the_expiry_of_its_parent(self, world: World) -> None:
        def minted(seconds: int) -> str:
            _, parent = world.new_token(expires_at=clock.now() + timedelta(seconds=seconds))
            reply = world.server.send(
                "POST", "/v1/auth/access-token/", ("X-API-Key", parent), body=b'{"expires_in": 600}'
            )
            return str(reply.json.get("access_token"))

        token = good_at_first(minted, lambda token: use(world, token).status == 200)
        wait_for(lambda: use(world, token).status == 401, "the parent expires")
        assert codes(world, token) == {"invalid_access_token"}

    def test_its_own_expiry(self, world: World) -> None:
        token = good_at_first(
            lambda seconds: world.access_token("*", expires_in=seconds + 1),  # it ends with a whole second
            lambda token: use(world, token).status == 200,
        )
        wait_for(lambda: use(world, token).status == 401, "the token expires")
        assert codes(world, token) == {"access_token_expired"}

    def test_a_grant_of_its_parent(self, world: World) -> None:
        token = world.access_token("*", expires_in=600)
        assert codes(world, token) == {""}
        grant = Grant.objects.select_related("service", "environment", "consumer").get(
            consumer=world.consumer
        )
        consumers.remove_grant(SYSTEM, grant, now=clock.now())
        assert codes(world, token) == {"not_found"}

    def test_a_change_of_the_signing_key(self, world: World) -> None:
        token = world.access_token("*", expires_in=600)
        assert codes(world, token) == {""}
        with another_signing_key(world.server.keyring):
            assert codes(world, token) == {"invalid_access_token"}
            assert codes(world, world.access_token("*")) == {""}
        assert codes(world, token) == {""}


class TestClaims:
    """The memory itself, at times of the test's choosing."""

    NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

    @pytest.fixture
    def text(self, installed: Server) -> str:
        return installed.keyring.read_text("utf-8")

    def mint(self, keys: Keys, expires_in: int = 60) -> str:
        return mint_access_token(
            keys.service,
            issuer=issuer(),
            audience=audience(),
            parent=str(uuid.uuid4()),
            environment="prod",
            paths=["*"],
            now=self.NOW,
            expires_in=expires_in,
        ).expose()

    def test_they_end_with_the_second_in_the_token(self, text: str) -> None:
        keys, claims = load_keys(path=None, text=text), Claims()
        token = self.mint(keys)
        for seconds in (0, 59, 59.999):
            told = claims.of(token, keys, self.NOW + timedelta(seconds=seconds))
            assert told.expires_at == self.NOW + timedelta(seconds=60)
        for seconds in (60, 61, 10_000):
            with pytest.raises(AccessTokenExpired):
                claims.of(token, keys, self.NOW + timedelta(seconds=seconds))

    @pytest.mark.parametrize("same_kid", [False, True])
    def test_they_end_with_the_key_that_signed_them(self, text: str, same_kid: bool) -> None:
        keys, claims = load_keys(path=None, text=text), Claims()
        token = self.mint(keys)
        claims.of(token, keys, self.NOW)
        kid = keys.service.signing_kid if same_kid else "sign-000000000000"
        others = load_keys(path=None, text=with_another_key(text, kid=kid))
        with pytest.raises(InvalidAccessToken):
            claims.of(token, others, self.NOW)
        claims.of(token, keys, self.NOW)

    def test_every_spelling_of_a_token_is_judged_by_itself(self, text: str) -> None:
        keys, claims = load_keys(path=None, text=text), Claims()
        token = self.mint(keys)
        claims.of(token, keys, self.NOW)
        for other in (f"{token}=", f" {token}", token[:-1], token.swapcase()):
            with pytest.raises(InvalidAccessToken):
                claims.of(other, keys, self.NOW)

    def test_a_refused_token_is_refused_again(self, text: str) -> None:
        keys, claims = load_keys(path=None, text=text), Claims()
        for _ in range(2):
            with pytest.raises(InvalidAccessToken):
                claims.of("a.b." + "c" * 86, keys, self.NOW)
            with pytest.raises(AccessTokenExpired):
                claims.of(self.mint(keys), keys, self.NOW + timedelta(hours=1))
