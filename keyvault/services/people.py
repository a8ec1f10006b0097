"""Teams, members, and people's tokens."""

from __future__ import annotations

import hmac
from datetime import datetime

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError as DuplicateRow
from django.db import transaction

from keyvault import audit
from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, digest, hint, mint, parse
from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import invalid, not_found
from keyvault.integrity import sign, verify
from keyvault.keystore import keys
from keyvault.models import Membership, Team, User, UserToken


@transaction.atomic
def create_team(actor: Actor, *, slug: str, name: str, now: datetime) -> Team:
    """A new team. An administrator creates it; whoever does is not made a member."""
    actor.demand_admin()
    if Team.objects.filter(slug=slug).exists():
        raise invalid("slug", "A team with this slug exists already.")
    team = Team(slug=slug, name=name or slug, created_at=now)
    team.full_clean()
    team.save()
    audit.record("team:created", actor=actor, now=now, team_id=team.id, team=slug)
    return team


@transaction.atomic
def set_member(actor: Actor, team: Team, *, username: str, role: Role, now: datetime) -> Membership:
    """Add a person to a team, or change the role they have there."""
    actor.demand("manage", team.id)
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise invalid("user", "There is no active person with this username.")
    member, _ = Membership.objects.update_or_create(
        team=team,
        user=user,
        defaults={"role": role.value},
        create_defaults={"role": role.value, "created_at": now},
    )
    audit.record("team:member:set", actor=actor, now=now, team_id=team.id, user=username, role=role.value)
    return member


@transaction.atomic
def remove_member(actor: Actor, team: Team, *, username: str, now: datetime) -> None:
    actor.demand("manage", team.id)
    deleted, _ = Membership.objects.filter(team=team, user__username=username).delete()
    if not deleted:
        raise not_found()
    audit.record("team:member:removed", actor=actor, now=now, team_id=team.id, user=username)


@transaction.atomic
def ensure_admin(username: str, *, now: datetime) -> User:
    """The administrator of that name; created without a usable password where there is none."""
    user = User.objects.filter(username=username).first()
    if user is None:
        user = User(username=username)
        user.set_unusable_password()
    user.organisation_role = OrganisationRole.ADMIN
    user.is_staff = user.is_superuser = user.is_active = True
    user.full_clean(exclude=["password"])
    user.save()
    return user


@transaction.atomic
def create_user_token(user: User, *, expires_at: datetime, now: datetime) -> tuple[UserToken, Secret]:
    """A token for scripts, shown once. Returns the row and the token."""
    if expires_at <= now:
        raise invalid("expires_at", "The expiry lies in the past.")
    secret = mint(TokenKind.USER, None)
    row = UserToken(
        user=user,
        digest=digest(keys().service.pepper, secret.expose()),
        hint=hint(secret),
        created_at=now,
        expires_at=expires_at,
    )
    sign(row)
    row.save(force_insert=True)
    audit.record(
        "user:token:created",
        actor=SYSTEM,
        now=now,
        subject=str(row.id),
        user=user.get_username(),
        hint=row.hint,
        expires_at=expires_at.isoformat(),
    )
    return row, secret


def user_for_token(text: str, *, now: datetime) -> User | None:
    """The active person behind a user token, or None for anything else (also expired and revoked).

    Raises ``IntegrityError`` for a row that none of our writers left like this.
    """
    parsed = parse(text)
    if parsed is None or parsed.kind is not TokenKind.USER:
        return None
    wanted = digest(keys().service.pepper, text)
    row = UserToken.objects.select_related("user").filter(digest=wanted).first()
    if row is None or not hmac.compare_digest(bytes(row.digest), wanted):
        return None
    verify(row)
    if row.revoked_at is not None or row.expires_at <= now or not row.user.is_active:
        return None
    return row.user


def create_person(username: str, password: str, *, role: OrganisationRole) -> User:
    """A person who signs in with a password. Raises ``validation_error`` for a name that is taken."""
    user = User(username=username, organisation_role=role)
    user.is_staff = user.is_superuser = role is OrganisationRole.ADMIN
    user.set_password(password)
    user.full_clean(exclude=["password"], validate_unique=False)  # the database decides that below
    try:
        with transaction.atomic():
            user.save()
    except DuplicateRow as error:
        raise invalid("username", "This name is taken.") from error
    return user


@transaction.atomic
def set_email(user: User, address: str, *, now: datetime) -> None:
    """Where this person gets mail; empty: nowhere. Raises ``validation_error``."""
    row = User.objects.select_for_update(no_key=True).get(pk=user.pk)
    row.email = address
    try:
        row.clean_fields(exclude=["username", "password"])
    except ValidationError as error:
        raise invalid("email", " ".join(error.messages)) from error
    row.save(update_fields=["email"])
    name = row.get_username()
    audit.record("user:email:set", actor=actor_for(row), now=now, subject=str(row.pk), user=name)


@transaction.atomic
def set_password(username: str, password: str, *, now: datetime) -> User:
    """Give an active person another password; whoever runs this has the machine already.

    Raises ``validation_error`` for an unknown name and for a password that the rules refuse.
    """
    user = User.objects.select_for_update().filter(username=username, is_active=True).first()
    if user is None:
        raise invalid("username", "There is no active person with this username.")
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise invalid("password", " ".join(error.messages)) from error
    user.set_password(password)
    user.save(update_fields=["password"])
    audit.record("user:password:set", actor=SYSTEM, now=now, subject=str(user.pk), user=username)
    return user
