"""Two teams, one person of every role, and a client for each."""

from __future__ import annotations

import itertools
import json
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.test import Client

from keyvault import clock
from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import OrganisationRole, Role
from keyvault.models import Consumer, Environment, Key, Provider, Service, Team, User
from keyvault.services import catalogue, consumers, people
from rotation import operations
from rotation.facts import OperationState
from rotation.models import Operation, Rotation
from rotation.services import adding, policies

_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"


def new_secret() -> str:
    """Text that is accepted as a provider's key."""
    return f"sk_{uuid.uuid4().hex}"


class Person:
    """One signed-in person: a user token, and requests made with it."""

    def __init__(self, username: str, now: datetime, role: OrganisationRole = OrganisationRole.NONE) -> None:
        self.user = User.objects.create(username=username, organisation_role=role)
        _, token = people.create_user_token(self.user, expires_at=now + timedelta(hours=8), now=now)
        self.token = token.expose()
        self.client = Client()

    @property
    def actor(self) -> Actor:
        return actor_for(self.user)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """``headers`` as ``Idempotency_Key="…"``; a body of bytes is sent as it is."""
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        given.setdefault("X-API-Key", self.token)
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.client.generic(
            method, path, data, content_type=given.pop("Content-Type", "application/json"), headers=given
        )

    def get(self, path: str, **headers: str) -> Any:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.call("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        return self.call("DELETE", path, **headers)


class World:
    """Team ``imaging`` with a lead, an operator and a viewer; team ``billing`` with the stranger."""

    def __init__(self) -> None:
        self.now = now = clock.now()
        policies.install_all(now=now)
        self.admin = Person("admin", now, OrganisationRole.ADMIN)
        self.auditor = Person("auditor", now, OrganisationRole.AUDITOR)
        self.lead, self.operator, self.viewer, self.stranger = (
            Person(name, now) for name in ("lead", "operator", "viewer", "stranger")
        )
        self.imaging = people.create_team(SYSTEM, slug="imaging", name="Imaging", now=now)
        self.billing = people.create_team(SYSTEM, slug="billing", name="Billing", now=now)
        for name in Role:
            people.set_member(SYSTEM, self.imaging, username=name.value, role=name, now=now)
        people.set_member(SYSTEM, self.billing, username="stranger", role=Role.LEAD, now=now)

    def service(self, *, team: Team | None = None, provider: str = "internal") -> Service:
        return catalogue.create_service(
            SYSTEM,
            slug=unique("service"),
            team=team or self.imaging,
            provider=Provider.objects.get(slug=provider),
            description="",
            now=self.now,
        )

    def key(
        self,
        environment: str = "dev",
        *,
        provider: str = "internal",
        secret: str = "",
        team: Team | None = None,
    ) -> Key:
        """A key with an imported first version; without ``secret`` one that provider ``internal`` honours."""
        added = adding.add_key(
            SYSTEM,
            self.service(team=team, provider=provider),
            Environment.objects.get(slug=environment),
            secret=Secret(secret) if secret else mint(TokenKind.ISSUED, environment),
            now=self.now,
        )
        return added.key

    def consumer(self, *, team: Team | None = None) -> Consumer:
        return consumers.create_consumer(
            SYSTEM, slug=unique("consumer"), team=team or self.imaging, now=self.now
        )


def key_path(key: Key, rest: str = "") -> str:
    return f"/v1/keys/{key.service.slug}/{key.environment.slug}/{rest}"


def work() -> None:
    """Carry out every operation that is pending, as a worker would."""
    while operation := Operation.objects.filter(state=OperationState.PENDING).order_by("created_at").first():
        operations.perform(operation.id, clock.now(), ring=lambda _: None)


def start(world: World, key: Key, **body: Any) -> str:
    """Start a rotation as the lead; returns the path of the rotation."""
    answer = world.lead.post(key_path(key, "rotations/"), body)
    assert answer.status_code == 201, answer.content
    return f"/v1/rotations/{answer.json()['id']}/"


def row(path: str) -> Rotation:
    return Rotation.objects.get(pk=path.rstrip("/").rpartition("/")[2])


def problem(answer: Any) -> dict[str, Any]:
    """The error object of an answer that is in the envelope, as every refusal must be."""
    assert answer["Content-Type"] == "application/json"
    assert answer["X-Request-ID"]
    assert answer["Cache-Control"] == "no-store"
    error: dict[str, Any] = answer.json()["error"]
    assert error["status"] == answer.status_code
    assert error["request_id"] == answer["X-Request-ID"]
    assert error["message"]
    return error
