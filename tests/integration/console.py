"""What the console's tests share: people, a team, and keys that need no network (driver ``generated``)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from allauth.account.internal.flows.login import record_authentication
from django.http import HttpRequest
from django.test import Client

from keyvault.actors import SYSTEM
from keyvault.domain import OrganisationRole, Role
from keyvault.models import Delivery, Environment, Key, Provider, Service, Team, User
from keyvault.services import catalogue, consumers
from rotation.models import Rotation
from rotation.services import policies, starting
from tests.browser.furniture import PASSWORD, person, plain_key, team_with

SECRET = "made-up-secret-Zk81mPq04xTt"


@dataclass
class House:
    """One team with a lead, an operator and a viewer; a stranger of another team; an administrator."""

    team: Team
    service: Service
    now: datetime

    @property
    def prod(self) -> Key:
        return Key.objects.named(self.service.slug, "prod").select_related("service", "environment").get()

    def start(self, environment: str = "prod") -> Rotation:
        key = Key.objects.named(self.service.slug, environment).get()
        # Nothing rings: the operation stays as it was asked for.
        return starting.start(SYSTEM, key, reason="quarterly", now=self.now, ring=lambda _: None)


def build(now: datetime | None = None) -> House:
    now = now or datetime.now(UTC)
    policies.install_all(now=now)
    team = team_with("media", "Media", now, lena=Role.LEAD, otto=Role.OPERATOR, vito=Role.VIEWER)
    team_with("shop", "Shop", now, stranger=Role.LEAD)
    person("ada", role=OrganisationRole.ADMIN)
    service = add_service(team, "background-removal", now)
    plain_key(service, "prod", SECRET, now=now - timedelta(days=3))
    return House(team, service, now)


def add_service(team: Team, slug: str, now: datetime) -> Service:
    provider = Provider.objects.get(slug="internal")
    return catalogue.create_service(SYSTEM, slug=slug, team=team, provider=provider, description="", now=now)


def deliver(key: Key, now: datetime, *, consumer: str = "billing", instance: str = "web-1") -> Delivery:
    """One recorded delivery of the current version."""
    environment = Environment.objects.get(pk=key.environment_id)
    owner = consumers.create_consumer(SYSTEM, slug=consumer, team=key.service.team, now=now)
    token, _ = consumers.create_token(SYSTEM, owner, environment, expires_at=now + timedelta(days=1), now=now)
    assert key.current is not None
    return Delivery.objects.create(
        at=now, key=key, version=key.current, consumer=owner, token=token, instance=instance,
        label="current", credential="consumer_token", status=200, request_id="test",
    )  # fmt: skip


def client_of(username: str) -> Client:
    client = Client()
    client.force_login(User.objects.get(username=username))
    return client


def fresh_client_of(username: str) -> Client:
    """Signed in, and the password confirmed just now; without the time that hashing takes."""
    client = client_of(username)
    request = HttpRequest()
    request.session = client.session
    record_authentication(
        request, User.objects.get(username=username), method="password", reauthenticated=True
    )
    request.session.save()
    return client


def confirm_password(client: Client, where: str) -> None:
    """Sign in again, as the reveal asks for it."""
    answer = client.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": where})
    assert answer.status_code in (200, 302), answer.content[:500]
