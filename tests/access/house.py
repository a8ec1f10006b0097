"""What the paths name: one of everything, all of it of one team; and everybody who asks for it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.test import Client

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.access_tokens import mint_access_token
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.delivery.authenticate import audience, issuer
from keyvault.domain import OrganisationRole, Role
from keyvault.integrity import sign
from keyvault.keystore import keys
from keyvault.models import AuditEvent, Environment, Heartbeat, Provider, Service, Team, User
from keyvault.services import catalogue, consumers, people, setup_links
from rotation import operations
from rotation.facts import OperationState
from rotation.models import Approval, Operation, Rotation, RotationPolicy
from rotation.policy import from_json, to_json
from rotation.services import adding, approving, channels, policies, radius, runs, starting, verbs
from tests.browser.furniture import person, team_with
from tests.integration.console import confirm_password

HOUR = timedelta(hours=1)
PEOPLE = ("stranger", "viewer", "operator", "lead", "auditor", "admin", "superuser")
CALLERS = (
    "nobody", *PEOPLE, "absent", "stale", "other", "revoked", "consumer", "consumer2", "access",
)  # fmt: skip
ABSENT = {
    "uuid": str(uuid.UUID(int=1)),
    "text": "absent",
    "number": "999999",
}
SESSION = "keyturn-session"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class House:
    """``names``: what a parameter stands for in the paths that begin so, such as ``"/consumers slug"``; the
    longest beginning wins."""

    now: datetime
    team: Team
    names: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)  # what must be in no answer
    sessions: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    built: float = field(default_factory=time.monotonic)

    def name(self, template: str, parameter: str) -> str:
        """Raises ``LookupError`` for a parameter that nothing here stands for: give it one."""
        parts = template.rstrip("/").split("/")
        beginnings = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
        known = next((found for b in beginnings if (found := self.names.get(f"{b} {parameter}"))), None)
        if known is None:
            raise LookupError(f"{template}: tests/access/house.py has no name for {{{parameter}}}")
        return known

    def path(self, template: str, *, absent: bool = False) -> str:
        def fill(found: re.Match[str]) -> str:
            known = self.name(template, found[1])
            if not absent:
                return known
            kind = "uuid" if _UUID.fullmatch(known) else "number" if known.isdecimal() else "text"
            return ABSENT[kind]

        return re.sub(r"\{(\w+)\}", fill, template)


def build(now: datetime) -> House:
    policies.install_all(now=now)
    roles = {"viewer": Role.VIEWER, "operator": Role.OPERATOR, "lead": Role.LEAD}
    house = House(now, team_with("imaging", "Imaging", now, **roles))
    Heartbeat.objects.update_or_create(name="beat", defaults={"at": now + HOUR})
    team_with("billing", "Billing", now, stranger=Role.LEAD)
    person("auditor", role=OrganisationRole.AUDITOR)
    person("admin", role=OrganisationRole.ADMIN)
    person("superuser")
    User.objects.filter(username="superuser").update(is_superuser=True, is_staff=True)
    _custody(house)
    _rotations(house)
    _around(house)
    _people(house)
    _sign_in(house)
    return house


def actor(name: str) -> Actor:
    return actor_for(User.objects.get(username=name))


def add_service(house: House, slug: str, provider: str = "internal") -> Service:
    return catalogue.create_service(
        SYSTEM, slug=slug, team=house.team, provider=Provider.objects.get(slug=provider),
        description="", now=house.now,
    )  # fmt: skip


def add_key(house: House, service: Service, environment: str) -> None:
    secret = mint(TokenKind.ISSUED, environment)
    house.secrets[f"{service.slug}/{environment}"] = secret.expose()
    place = Environment.objects.get(slug=environment)
    adding.add_key(SYSTEM, service, place, secret=secret, now=house.now)


def _custody(house: House) -> None:
    """A key to which nothing happens, a consumer with a token and a grant."""
    photos = add_service(house, "photos")
    for environment in ("dev", "staging", "prod"):
        add_key(house, photos, environment)
    add_service(house, "empty")
    consumer = consumers.create_consumer(SYSTEM, slug="farm", team=house.team, now=house.now)
    prod = Environment.objects.get(slug="prod")
    row, token = consumers.create_token(SYSTEM, consumer, prod, expires_at=house.now + HOUR, now=house.now)
    grant = consumers.set_grant(SYSTEM, consumer, photos, prod, verbs=["read", "report"], now=house.now)
    theirs = consumers.create_consumer(
        SYSTEM, slug="theirs", team=Team.objects.get(slug="billing"), now=house.now
    )
    _, other = consumers.create_token(SYSTEM, theirs, prod, expires_at=house.now + HOUR, now=house.now)
    access = mint_access_token(
        keys().service, issuer=issuer(), audience=audience(), parent=str(row.id), environment="prod",
        paths=["*"], now=house.now, expires_in=600,
    )  # fmt: skip
    house.tokens |= {
        "consumer": token.expose(), "consumer2": other.expose(), "access": access.expose(),
    }  # fmt: skip
    version = photos.keys.get(environment=prod).current
    assert version is not None
    house.names |= {
        " service": "photos", " environment": "prod", " consumer": "farm", " token_id": str(row.id),
        " grant_id": str(grant.id), " grant": str(grant.id), " team": "imaging", " user": "viewer",
        " provider": "internal", " token": str(row.id),
        "/setup token": "made-up", "/consumers slug": "farm",
        # Nobody is shown the key of a protected environment.
        "/keys/{service}/{environment}/reveal environment": "dev",
        "/v1/services/{service}/keys service": "empty",
        "/v1/services/{service}/keys/{environment} service": "photos",
        "/admin/keyvault/key object_id": str(version.key_id),
        "/admin/keyvault/keyversion object_id": str(version.id),
    }  # fmt: skip


def _rotation(house: House, service: str, environment: str, policy: str | None = None) -> Rotation:
    key = Service.objects.get(slug=service).keys.get(environment__slug=environment)
    chosen = RotationPolicy.objects.get(slug=policy) if policy else None
    return starting.start(
        actor("lead"), key, policy=chosen, reason="quarterly", now=house.now, ring=lambda _: None
    )


def _rotations(house: House) -> None:
    """One that goes on, and one for each verb that another state takes."""
    standard = RotationPolicy.objects.get(slug="standard")
    careful = dict(to_json(from_json(standard.document)))
    careful["approvals"] = {"start": 1}
    RotationPolicy.objects.create(slug="careful", document=careful, created_at=house.now)
    RotationPolicy.objects.create(slug="unused", document=careful, created_at=house.now)
    house.names["/policies/{slug}/remove slug"] = "unused"
    manual = add_service(house, "film", "backgrounderase")
    adding.add_key(
        SYSTEM, manual, Environment.objects.get(slug="dev"), secret=Secret("sk_b7Xq2Lm9Zk81mPq04xTt"),
        now=house.now,
    )  # fmt: skip
    for environment in ("dev", "staging", "prod"):
        add_key(house, add_service(house, f"scans-{environment}"), environment)
    add_key(house, add_service(house, "glass"), "dev")
    waiting = _rotation(house, "film", "dev", "fast")
    asked = Operation.objects.get(rotation=waiting, state=OperationState.PENDING)
    operations.perform(asked.id, house.now, ring=lambda _: None)
    finished = _rotation(house, "scans-staging", "staging", "fast")
    verbs.abort(SYSTEM, finished.id, reason="not now", now=house.now, ring=lambda _: None)
    paused = _rotation(house, "photos", "staging", "fast")
    verbs.pause(SYSTEM, paused.id, reason="release", now=house.now, ring=lambda _: None)
    asking = _rotation(house, "scans-dev", "dev", "careful")
    alone = _rotation(house, "glass", "dev", "careful")
    approving.break_glass(
        actor("lead"), alone.id, reason="nobody is here", now=house.now, ring=lambda _: None
    )
    going = _rotation(house, "photos", "dev", "fast")
    house.names |= {" rotation_id": str(going.id), " rotation": str(going.id)}
    for verb, row in {"supply": waiting, "evidence": finished, "resume": paused, "approve": asking}.items():
        house.names[f"/rotations/{{rotation_id}}/{verb} rotation_id"] = str(row.id)
        house.names[f"/v1/rotations/{{rotation}}/{verb} rotation"] = str(row.id)
    house.names["/approvals rotation_id"] = str(asking.id)
    house.names["/reviews approval_id"] = str(Approval.objects.get(rotation=alone).id)
    house.names["/admin/rotation/rotation object_id"] = str(going.id)


def _around(house: House) -> None:
    """Channels, emergencies, policies, and what the records show."""
    made = channels.create_channel(
        SYSTEM, slug="hook", team=house.team, kind="webhook",
        url=Secret("https://hooks.example.org/canary7391"), fields={}, now=house.now,
    )  # fmt: skip
    assert made.secret is not None
    house.secrets |= {"hook": made.secret.expose(), "hook's address": "canary7391"}
    lead = actor("lead")
    found, tokens, subject = radius.chosen(lead, "service", "scans-prod")
    drawn = radius.radius(
        lead, found, tokens, scope="service", subject=subject, mode="replace", now=house.now
    )
    running = runs.start(lead, drawn, count=drawn.count, plan=drawn.digest, reason="leaked", now=house.now)
    stopped = runs.propose(SYSTEM, drawn, reason="reported", now=house.now)
    house.names |= {
        " run_id": str(running.id), " run": str(running.id), " channel": "hook", " policy": "standard",
        "/channels slug": "hook", "/policies slug": "standard", "/providers slug": "internal",
        "/audit sequence": str(AuditEvent.objects.filter(team_id=house.team.id).latest("sequence").sequence),
    }  # fmt: skip
    for template in ("/emergency/{run_id}/confirm run_id", "/v1/emergency/{run}/confirm run"):
        house.names[template] = str(stopped.id)
    house.names |= {
        "/admin app_label": "keyvault", "/admin url": "nothing/", "/admin content_type_id": "1",
        "/admin object_id": ABSENT["uuid"],
        "/admin/keyvault/auditevent object_id": str(AuditEvent.objects.latest("sequence").pk),
        "/accounts pk": "1",
    }  # fmt: skip


def _people(house: House) -> None:
    """The viewer as others see them, and a link for somebody new."""
    viewer = User.objects.get(username="viewer")
    link, secret = setup_links.invite(
        actor("lead"), house.team, username="newcomer", role=Role.VIEWER, now=house.now
    )
    house.secrets["link"] = secret.expose()
    event = AuditEvent.objects.filter(team_id=house.team.id).latest("sequence")
    house.names |= {
        "/team slug": "imaging", "/team member_id": str(house.team.memberships.get(user=viewer).id),
        "/team link_id": str(link.id), "/people user_id": str(viewer.pk),
        "/audit sequence": str(event.sequence), "/join token": "made-up",
        "/accounts/sso provider_id": "made-up",
    }  # fmt: skip


# Callers -------------------------------------------------------------------------------------------


def _sign_in(house: House) -> None:
    confirm(house)
    for name in PEOPLE:
        user = User.objects.get(username=name)
        row, token = people.create_user_token(user, expires_at=house.now + HOUR, now=house.now)
        if name == "lead":
            house.names["/profile token_id"] = str(row.id)
        house.tokens[name] = token.expose()
    house.tokens["absent"] = house.tokens["lead"]
    row, token = people.create_user_token(
        User.objects.get(username="admin"), expires_at=house.now + HOUR, now=house.now
    )
    row.revoked_at = house.now
    sign(row)
    row.save()
    house.tokens["revoked"] = token.expose()


def confirm(house: House) -> None:
    """Everybody signs in and gives the password, which is good for five minutes."""
    for name in PEOPLE:
        house.sessions[name] = _session(User.objects.get(username=name), confirmed=True)
    house.sessions["absent"] = house.sessions["lead"]
    house.sessions["stale"] = _session(User.objects.get(username="lead"), confirmed=False)


def _session(user: User, *, confirmed: bool) -> str:
    """A session as signing in makes it; ``confirmed``: the password was given once more, just now."""
    client = Client()
    client.force_login(user)
    if confirmed:
        confirm_password(client, "/")
    return client.cookies[SESSION].value


def credential(house: House, caller: str, *, api: bool) -> Mapping[str, Mapping[str, str]]:
    """What this caller sends along: ``cookies`` and ``headers``."""
    session, token = house.sessions.get(caller, ""), house.tokens.get(caller, "")
    if caller == "other":
        session, token = ("", house.tokens["admin"]) if not api else (house.sessions["admin"], "")
    elif api:
        session = ""
    elif session:
        token = ""
    headers = {"X-API-Key": token} if token else {}
    if caller == "access":
        headers = {"Authorization": f"AccessToken {token}"}
    return {"cookies": {SESSION: session} if session else {}, "headers": headers}
