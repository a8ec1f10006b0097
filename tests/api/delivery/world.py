"""Rows for the tests of delivery, made through the services. Every call makes names of its own."""

from __future__ import annotations

import itertools
import json
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.limits.cells_file import CELL_BYTES, HEADER_BYTES
from keyvault.models import Consumer, ConsumerToken, Delivery, Environment, Key, KeyVersion, Provider, Service
from keyvault.services import catalogue, consumers, keys, people
from tests.api.conftest import Server
from tests.api.wire import Reply

_numbers = itertools.count(1)


@dataclass
class World:
    """One service with a key in one environment, and one consumer with a grant and a token."""

    server: Server
    service: Service
    environment: Environment
    key_id: uuid.UUID
    consumer: Consumer
    token_row: ConsumerToken
    token: str
    secret: str

    @property
    def key(self) -> Key:
        return Key.objects.select_related("current", "pending", "previous").get(pk=self.key_id)

    @property
    def path(self) -> str:
        return f"/v1/keys/{self.service.slug}/{self.environment.slug}/"

    @property
    def auth(self) -> tuple[str, str]:
        return ("X-API-Key", self.token)

    def get(self, query: str = "", *headers: tuple[str, str], method: str = "GET") -> Reply:
        """Ask for the key with the consumer's token."""
        return self.server.send(method, self.path + query, self.auth, *headers)

    def send(self, method: str, target: str, *headers: tuple[str, str], body: bytes | None = None) -> Reply:
        return self.server.send(method, target, self.auth, *headers, body=body)

    def another_caller(self) -> World:
        """The same, with a fresh token of the consumer: its requests are counted from none."""
        row, token = self.new_token()
        return replace(self, token_row=row, token=token)

    def counted(self) -> int:
        """Requests of the token that the servers have counted in the last minute that it was used in."""
        cells = (self.server.data / "limits.cells").read_bytes()[HEADER_BYTES:]
        at = cells.find(self.token_row.id.bytes)
        # A cell starts with its subject and ends with its count.
        return 0 if at < 0 else int.from_bytes(cells[at + CELL_BYTES - 8 : at + CELL_BYTES], sys.byteorder)

    def deliveries(self) -> list[Delivery]:
        return list(Delivery.objects.filter(key_id=self.key_id).order_by("id"))

    def version(self, number: int) -> KeyVersion:
        return KeyVersion.objects.select_related("key").get(key_id=self.key_id, number=number)

    def offer(
        self, weight: int, *, canaries: Sequence[str] = (), refresh_seconds: int = 7
    ) -> tuple[KeyVersion, str]:
        """A pending version at this weight; returns it and its secret."""
        secret = new_secret()
        with transaction.atomic():
            key = keys.lock_key(self.key_id)
            version = keys.request_version(SYSTEM, key, now=clock.now())
            keys.fill_version(
                SYSTEM, key, version, Secret(secret), provider_key_id="", imported=False, now=clock.now()
            )
            keys.offer(
                SYSTEM,
                key,
                version,
                salt=os.urandom(32),
                canaries=canaries,
                pinned=(),
                refresh_seconds=refresh_seconds,
                now=clock.now(),
            )
            keys.set_weight(SYSTEM, key, weight, now=clock.now())
        return version, secret

    def change(self, service: Any, *args: Any, **kwargs: Any) -> None:
        """Call one function of ``keyvault.services.keys`` on the locked key."""
        with transaction.atomic():
            service(SYSTEM, keys.lock_key(self.key_id), *args, now=clock.now(), **kwargs)

    def promote(self) -> None:
        self.change(keys.promote)

    def grant(self, verbs: Sequence[str]) -> None:
        consumers.set_grant(
            SYSTEM, self.consumer, self.service, self.environment, verbs=verbs, now=clock.now()
        )

    def new_token(
        self,
        *,
        cidrs: Sequence[str] = (),
        rate: int = 100_000,
        instances: int | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ConsumerToken, str]:
        row, secret = consumers.create_token(
            SYSTEM,
            self.consumer,
            self.environment,
            expires_at=expires_at,
            cidrs=cidrs,
            rate_per_minute=rate,
            instance_limit=instances,
            now=clock.now(),
        )
        return row, secret.expose()

    def access_token(self, *paths: str, expires_in: int = 60) -> str:
        """Minted over HTTP, as a consumer does it."""
        wanted = {"paths": list(paths), "expires_in": expires_in}
        reply = self.send("POST", "/v1/auth/access-token/", body=json.dumps(wanted).encode())
        assert reply.status == 201, reply.body
        return str(reply.json["access_token"])


def new_secret() -> str:
    return f"sk_{uuid.uuid4().hex}"


def build(
    server: Server,
    *,
    environment: str = "prod",
    provider: str = "backgrounderase",
    verbs: Sequence[str] = ("read", "versions", "report"),
    rate: int = 100_000,
    imported: bool = True,
) -> World:
    """A world with one current version, unless ``imported`` is False."""
    n, now = next(_numbers), clock.now()
    mark = f"{n}-{uuid.uuid4().hex[:8]}"
    team = people.create_team(SYSTEM, slug=f"team-{mark}", name="", now=now)
    service = catalogue.create_service(
        SYSTEM,
        slug=f"service-{mark}",
        team=team,
        provider=Provider.objects.get(slug=provider),
        description="",
        now=now,
    )
    place = Environment.objects.get(slug=environment)
    key = keys.create_key(SYSTEM, service, place, now=now)
    secret = new_secret()
    if imported:
        keys.import_first(SYSTEM, key, Secret(secret), now=now)
    consumer = consumers.create_consumer(SYSTEM, slug=f"consumer-{mark}", team=team, now=now)
    consumers.set_grant(SYSTEM, consumer, service, place, verbs=verbs, now=now)
    row, token = consumers.create_token(
        SYSTEM, consumer, place, expires_at=now + timedelta(days=1), rate_per_minute=rate, now=now
    )
    return World(server, service, place, key.id, consumer, row, token.expose(), secret)
