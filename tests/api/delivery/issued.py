"""A world whose key we issue ourselves, so that others can have it verified."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from django.db import transaction

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.models import KeyVersion, Verification
from keyvault.services import keys
from tests.api.conftest import Server
from tests.api.delivery.world import World, build
from tests.api.wire import Reply

VERIFY = "/v1/verify/"
FORWARD_AUTH = "/v1/forward-auth/"


@dataclass
class Issued:
    """``key`` is the current version of the key, as somebody presents it."""

    world: World
    key: str

    def verify(self, presented: str, *headers: tuple[str, str]) -> Reply:
        """What the world's consumer is told of a presented key."""
        body = json.dumps({"key": presented}).encode()
        return self.world.server.send("POST", VERIFY, *(headers or (self.world.auth,)), body=body)

    def code(self, presented: str = "") -> str:
        return str(self.verify(presented or self.key).json["code"])

    def pass_by(self, *headers: tuple[str, str], method: str = "GET", query: str = "") -> Reply:
        """What a gateway is told of a request with these headers; by default with the good key."""
        sent = headers or (("X-API-Key", self.key),)
        return self.world.server.send(method, FORWARD_AUTH + query, *sent)

    def offer(self) -> str:
        """Issue another version and label it pending; returns it."""
        secret = mint(TokenKind.ISSUED, self.world.environment.slug)
        with transaction.atomic():
            key = keys.lock_key(self.world.key_id)
            version = keys.request_version(SYSTEM, key, now=clock.now())
            keys.fill_version(
                SYSTEM, key, version, secret, provider_key_id="", imported=False, now=clock.now()
            )
            keys.offer(
                SYSTEM,
                key,
                version,
                salt=os.urandom(32),
                canaries=(),
                pinned=(),
                refresh_seconds=7,
                now=clock.now(),
            )
        return secret.expose()

    def version(self, number: int = 1) -> KeyVersion:
        return self.world.version(number)

    def rows(self) -> list[Verification]:
        return list(Verification.objects.filter(version__key_id=self.world.key_id).order_by("id"))

    def total(self, **which: object) -> int:
        """Verifications that are on record, equal ones counted."""
        rows = Verification.objects.filter(version__key_id=self.world.key_id, **which)
        return sum(row.count for row in rows)


def issue(server: Server, *, environment: str = "prod", rate: int = 100_000) -> Issued:
    """A key of our own in one environment, and a consumer that may verify it."""
    world = build(
        server, environment=environment, provider="internal", verbs=["verify"], rate=rate, imported=False
    )
    secret = mint(TokenKind.ISSUED, environment)
    keys.import_first(SYSTEM, world.key, secret, now=clock.now())
    return Issued(world, secret.expose())
