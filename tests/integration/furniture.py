"""A small furnished Keyturn for tests that need rows but no provider, and threads with connections."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from django.db import connection, connections, transaction

from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.delivery import asgi, workers
from keyvault.models import (
    Consumer,
    ConsumerToken,
    Environment,
    Key,
    KeyVersion,
    Provider,
    Service,
    Team,
)
from keyvault.services import catalogue, consumers, keks, keys, people, verifying
from rotation.services import policies

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PATIENCE = 120.0

_names = itertools.count(1)
_Result = TypeVar("_Result")

GUARDS = tuple(
    importlib.import_module(f"keyvault.migrations.{name}") for name in ("0002_guards", "0012_audit_seals")
)
rotation_guards = importlib.import_module("rotation.migrations.0002_guards")


def fresh_secret() -> Secret:
    """Something that a provider could have handed out; never the same twice."""
    return Secret(f"sk-live-{secrets.token_hex(16)}")


@dataclass
class Furniture:
    """A team with one service at one provider."""

    team: Team
    provider: Provider
    service: Service

    def environment(self, slug: str = "prod") -> Environment:
        return Environment.objects.get(slug=slug)

    def empty_key(self, environment: str = "prod") -> Key:
        return keys.create_key(
            SYSTEM, self.service, self.environment(environment), never_shown=False, now=NOW
        )

    def key(self, environment: str = "prod", secret: Secret | None = None) -> Key:
        """A key with a first version."""
        key = self.empty_key(environment)
        keys.import_first(SYSTEM, key, secret or fresh_secret(), now=NOW)
        return reread(key)

    def consumer(self) -> Consumer:
        return consumers.create_consumer(SYSTEM, slug=f"consumer-{next(_names)}", team=self.team, now=NOW)

    def reader(
        self, environment: str = "prod", verbs: Sequence[str] = ("read", "versions", "report")
    ) -> tuple[ConsumerToken, Secret]:
        """The token of a consumer that may read this service's key there."""
        consumer = self.consumer()
        consumers.set_grant(
            SYSTEM, consumer, self.service, self.environment(environment), verbs=verbs, now=NOW
        )
        # Delivery reads the real clock, so this one must not end in its past.
        return consumers.create_token(
            SYSTEM, consumer, self.environment(environment), expires_at=far_away(), now=NOW
        )


def far_away() -> datetime:
    return datetime.now(UTC) + timedelta(days=365)


def furnish(provider: str = "internal") -> Furniture:
    """Presets, a team and a service; another one at each call."""
    policies.install_all(now=NOW)
    n = next(_names)
    team = people.create_team(SYSTEM, slug=f"furniture-team-{n}", name="", now=NOW)
    row = Provider.objects.get(slug=provider)
    service = catalogue.create_service(
        SYSTEM, slug=f"furniture-{n}", team=team, provider=row, description="", now=NOW
    )
    return Furniture(team, row, service)


def reread(key: Key) -> Key:
    return Key.objects.select_related(
        "service__provider", "service__team", "environment", "current", "pending", "previous"
    ).get(pk=key.pk)


def reread_version(version: KeyVersion) -> KeyVersion:
    return KeyVersion.objects.select_related("key__service", "key__environment").get(pk=version.pk)


def second_version(key: Key, *, secret: Secret | None = None) -> KeyVersion:
    """Another active version of this key, without a label."""
    with transaction.atomic():
        key = keys.lock_key(key.id)
        version = keys.request_version(SYSTEM, key, now=NOW)
        keys.fill_version(
            SYSTEM, key, version, secret or fresh_secret(), provider_key_id="", imported=True, now=NOW
        )
    return version


@contextmanager
def without_guards() -> Iterator[None]:
    """The database as somebody would leave it who may drop triggers too."""
    vendor = connection.vendor
    with connection.cursor() as cursor:
        for guards in reversed(GUARDS):
            for statement in guards.UNDO[vendor]:
                cursor.execute(statement)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            for guards in GUARDS:
                for statement in guards.DO[vendor]:
                    cursor.execute(statement)


# Audit -------------------------------------------------------------------------------------------


def broken_at() -> int | None:
    """The first sequence at which the audit trail is not as it was written; None where it is whole."""
    finding = verifying.prove((), NOW).finding
    return None if finding is None else finding.sequence


def fresh_kek(environment: str = "prod", *, now: datetime = NOW) -> str:
    """Add a KEK and make it the primary; returns its kid. No server may be under way."""
    kid = keks.add(SYSTEM, environment, now=now)
    keks.promote(SYSTEM, environment, kid, now=now)
    return kid


# Delivery ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivered:
    """What a consumer got."""

    status: int
    text: str

    @property
    def code(self) -> str:
        return str(json.loads(self.text)["error"]["code"])

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.text)
        return document


def ask(
    token: Secret,
    service: str,
    environment: str = "prod",
    query: str = "",
    *,
    until: Callable[[], object] | None = None,
) -> Delivered:
    """One real delivery, through the ASGI application. Needs rows that are committed.

    The application runs on until ``until`` is true.
    """

    async def story() -> Delivered:
        answer = await answered(token, service, environment, query)
        deadline = time.monotonic() + PATIENCE
        while until is not None and not await workers.run(until):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        return answer

    return serving(story)


def serving(story: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run a story in one process of delivery, from an empty memory to its end."""

    async def told() -> _Result:
        try:
            return await story()
        finally:
            await asgi.shut_down()

    with _connections_let_go():
        return asyncio.run(told())


async def answered(token: Secret, service: str, environment: str = "prod", query: str = "") -> Delivered:
    """What this process of delivery answers, within ``serving``."""
    path = f"/v1/keys/{service}/{environment}/"
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1"), (b"x-api-key", token.expose().encode())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi.application(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return Delivered(sent[0]["status"], body.decode())


@contextmanager
def _connections_let_go() -> Iterator[None]:
    """The threads of delivery close their connections after each request, so that a test database can go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
        yield


# Threads -------------------------------------------------------------------------------------------


def at_once(*calls: Callable[[], _Result]) -> list[_Result | Exception]:
    """Run every call in a thread with a connection of its own, all let go at the same moment.

    Returns what each returned or raised, in order.
    """
    outcomes: list[_Result | Exception | None] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(index: int, call: Callable[[], _Result]) -> None:
        try:
            connection.ensure_connection()
            gate.wait(PATIENCE)
            outcomes[index] = call()
        except Exception as error:
            outcomes[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(i, call), daemon=True) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread is stuck"
    return [outcome for outcome in outcomes if outcome is not None]


def returned(outcomes: Sequence[_Result | Exception]) -> list[_Result]:
    """The results of the calls that did not raise."""
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]


def raised(outcomes: Sequence[object]) -> list[Exception]:
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]
