"""Links with which a person chooses a password: the way in for somebody new, and back in for somebody old."""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime, timedelta
from typing import Final

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import digest
from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import invalid, not_found
from keyvault.integrity import sign, verify
from keyvault.keystore import keys
from keyvault.models import SetupLink, Team, User
from keyvault.services import people

LIFETIME: Final = timedelta(hours=48)


@transaction.atomic
def invite(actor: Actor, team: Team, *, username: str, role: Role, now: datetime) -> tuple[SetupLink, Secret]:
    """A link for somebody new, who joins this team with it. Returns the row and the token, shown once.

    An older link for the same name stops working. Raises ``validation_error`` for a name that is taken.
    """
    actor.demand("manage", team.id)
    try:
        User.username_validator(username)
    except ValidationError as error:
        raise invalid("user", " ".join(error.messages)) from error
    if User.objects.filter(username=username).exists():
        raise invalid("user", "There is a person of this name. Add them instead.")
    SetupLink.objects.filter(username=username, team=team).delete()
    return _make(actor, SetupLink(username=username, team=team, role=role.value), now=now)


@transaction.atomic
def new_password(actor: Actor, user: User, *, now: datetime) -> tuple[SetupLink, Secret]:
    """A link for somebody who lost the password. A second factor is asked for as before."""
    actor.demand_admin()
    if not user.is_active:
        raise invalid("user", "This person is shut out. Let them in again first.")
    SetupLink.objects.filter(user=user).delete()
    return _make(actor, SetupLink(username=user.get_username(), user=user), now=now)


def _make(actor: Actor, link: SetupLink, *, now: datetime) -> tuple[SetupLink, Secret]:
    secret = Secret(secrets.token_urlsafe(32))
    link.digest = _digest(secret.expose())
    link.made_by, link.created_at, link.expires_at = actor.name, now, now + LIFETIME
    sign(link)
    link.save(force_insert=True)
    audit.record(
        "user:link:created",
        actor=actor,
        now=now,
        team_id=link.team_id,
        subject=str(link.id),
        user=link.username,
        role=link.role,
    )
    return link, secret


def _digest(text: str) -> bytes:
    return digest(keys().service.pepper, f"setup-link:{text}")


@transaction.atomic
def withdraw(actor: Actor, link: SetupLink, *, now: datetime) -> None:
    if link.team_id is None:
        actor.demand_admin()
    else:
        actor.demand("manage", link.team_id)
    team, subject, username = link.team_id, str(link.id), link.username
    link.delete()
    audit.record("user:link:withdrawn", actor=actor, now=now, team_id=team, subject=subject, user=username)


def find(text: str, *, now: datetime) -> SetupLink | None:
    """The link behind this token if it would work now. Raises ``IntegrityError`` for a changed row."""
    wanted = _digest(text)
    link = SetupLink.objects.select_related("user", "team").filter(digest=wanted).first()
    if link is None or not hmac.compare_digest(bytes(link.digest), wanted):
        return None
    verify(link)
    good = now < link.expires_at and (link.user is None or link.user.is_active)
    return link if good else None


@transaction.atomic
def use(text: str, password: str, *, now: datetime) -> User:
    """Set the password and use the link up: one caller succeeds, everybody else gets ``not_found``.

    Raises ``validation_error`` for a password that the rules refuse; the link then stays.
    """
    link = find(text, now=now)
    if link is None:
        raise not_found()
    user = link.user or User(username=link.username)
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise invalid("password", " ".join(error.messages)) from error
    if not SetupLink.objects.filter(pk=link.pk).delete()[0]:
        raise not_found()
    if link.user is None:
        user = people.create_person(link.username, password, role=OrganisationRole.NONE)
    else:
        user.set_password(password)
        user.save(update_fields=["password"])
    if link.team is not None:
        people.join(_maker(link), link.team, user, Role(link.role), now=now)
    themselves = Actor(kind="user", name=user.get_username(), user_id=user.pk)
    audit.record("user:link:used", actor=themselves, now=now, subject=str(user.pk), user=user.get_username())
    return user


def _maker(link: SetupLink) -> Actor:
    """Who let this person in: the one who made the link, not the one who used it."""
    return Actor(kind="user", name=link.made_by)
