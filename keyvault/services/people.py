"""Teams, members, and people's tokens."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from zoneinfo import available_timezones

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError as DuplicateRow
from django.db import transaction
from django.db.models import Q

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
    """Add a person to a team, or change the role they have there.

    What a person sets here is kept: single sign-on no longer changes it.
    """
    actor.demand("manage", team.id)
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise invalid("user", "There is no active person with this username.")
    if role is not Role.LEAD:
        _keep_a_lead(actor, team, user.pk)
    return join(actor, team, user, role, now=now)


def join(
    actor: Actor, team: Team, user: User, role: Role, *, now: datetime, from_sso: bool = False, why: str = ""
) -> Membership:
    """Write the membership and its event; who may is decided by the caller."""
    member, _ = Membership.objects.update_or_create(
        team=team,
        user=user,
        defaults={"role": role.value, "from_sso": from_sso},
        create_defaults={"role": role.value, "from_sso": from_sso, "created_at": now},
    )
    name = user.get_username()
    audit.record(
        "team:member:set", actor=actor, now=now, team_id=team.id, reason=why, user=name, role=role.value
    )
    return member


def _keep_a_lead(actor: Actor, team: Team, user_id: int) -> None:
    """A lead who would leave the team without one names a successor first. An administrator stays one."""
    if actor.user_id != user_id or actor.is_admin:
        return
    # Two leads who leave at the same moment: the second waits here, and then sees that it is the last.
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    leads = Membership.objects.filter(team=team, role=Role.LEAD.value, user__is_active=True)
    if leads.filter(user_id=user_id).exists() and not leads.exclude(user_id=user_id).exists():
        raise invalid("user", "You are the last lead of this team. Make somebody else lead first.")


@transaction.atomic
def remove_member(actor: Actor, team: Team, *, username: str, now: datetime) -> None:
    """What this person revealed counts as exposed from now on, if the policies of the keys say so."""
    actor.demand("manage", team.id)
    member = Membership.objects.filter(team=team, user__username=username).first()
    if member is None:
        raise not_found()
    _keep_a_lead(actor, team, member.user_id)
    leave(actor, member, now=now)


def leave(actor: Actor, member: Membership, *, now: datetime, why: str = "") -> None:
    """Delete the membership and record it; who may is decided by the caller."""
    user, team = member.user.get_username(), member.team_id
    member.delete()
    audit.record("team:member:removed", actor=actor, now=now, team_id=team, reason=why, user=user)


@transaction.atomic
def set_organisation_role(actor: Actor, user: User, role: OrganisationRole, *, now: datetime) -> None:
    """Make somebody auditor or administrator, or neither. The last administrator stays one."""
    actor.demand_admin()
    row = _locked(user)
    if role is not OrganisationRole.ADMIN:
        _keep_an_admin(row)
    give_organisation_role(actor, row, role, now=now)


def give_organisation_role(
    actor: Actor, user: User, role: OrganisationRole, *, now: datetime, from_sso: bool = False, why: str = ""
) -> None:
    """Write the role and its event; who may is decided by the caller."""
    user.organisation_role, user.organisation_role_from_sso = role.value, from_sso
    user.is_staff = user.is_superuser = role is OrganisationRole.ADMIN
    fields = ["organisation_role", "organisation_role_from_sso", "is_staff", "is_superuser"]
    user.save(update_fields=fields)
    name, given = user.get_username(), role.value or "none"
    audit.record(
        "user:role:set", actor=actor, now=now, subject=str(user.pk), reason=why, user=name, role=given
    )


@transaction.atomic
def set_active(actor: Actor, user: User, *, active: bool, now: datetime) -> None:
    """Shut somebody out, with their sessions and tokens, or let them in again."""
    actor.demand_admin()
    row = _locked(user)
    if not active and actor.user_id == row.pk:
        raise invalid("user", "Another administrator has to do this for you.")
    if not active:
        _keep_an_admin(row)
    row.is_active = active
    row.session_generation += 1
    row.save(update_fields=["is_active", "session_generation"])
    audit.record(
        "user:activated" if active else "user:deactivated",
        actor=actor,
        now=now,
        subject=str(row.pk),
        user=row.get_username(),
    )


def _locked(user: User) -> User:
    """The row as it is now; the administrators are locked with it, so that the last one is known."""
    admins = Q(organisation_role=OrganisationRole.ADMIN.value) | Q(pk=user.pk)
    rows = {row.pk: row for row in User.objects.select_for_update(no_key=True).filter(admins).order_by("pk")}
    return rows[user.pk]


def _keep_an_admin(user: User) -> None:
    admins = User.objects.filter(organisation_role=OrganisationRole.ADMIN.value, is_active=True)
    if admins.filter(pk=user.pk).exists() and not admins.exclude(pk=user.pk).exists():
        raise invalid("user", "This is the last administrator. Make somebody else administrator first.")


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
def create_user_token(
    user: User, *, expires_at: datetime, now: datetime, actor: Actor = SYSTEM
) -> tuple[UserToken, Secret]:
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
        actor=actor,
        now=now,
        subject=str(row.id),
        user=user.get_username(),
        hint=row.hint,
        expires_at=expires_at.isoformat(),
    )
    return row, secret


@transaction.atomic
def revoke_user_token(actor: Actor, token: UserToken, *, now: datetime) -> None:
    """Refuse this token from now on. Its owner may, and an administrator; a second time changes nothing."""
    if actor.user_id != token.user_id:
        actor.demand_admin()
    row = UserToken.objects.select_for_update(of=("self",)).select_related("user").get(pk=token.pk)
    verify(row)
    if row.revoked_at is not None:
        return
    row.revoked_at = now
    sign(row)
    row.save(update_fields=["revoked_at", "mac"])
    name = row.user.get_username()
    audit.record("user:token:revoked", actor=actor, now=now, subject=str(row.id), user=name, hint=row.hint)


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
    name = row.get_username()
    # Before the change: who hears of it is told at the address that is left.
    audit.record("user:email:set", actor=actor_for(row), now=now, subject=str(row.pk), user=name)
    row.save(update_fields=["email"])


@transaction.atomic
def set_profile(user: User, *, name: str, time_zone: str, now: datetime) -> None:
    """What this person is called, and the zone in which times are shown; empty: that of the browser."""
    if time_zone and time_zone not in available_timezones():
        raise invalid("time_zone", "This time zone is not known.")
    row = User.objects.select_for_update(no_key=True).get(pk=user.pk)
    fields = [
        field
        for field, value in (("name", name), ("time_zone", time_zone))
        if value != (row.get_full_name() if field == "name" else row.time_zone)
    ]
    if not fields:
        return
    row.first_name, row.last_name, row.time_zone = name, "", time_zone
    row.save(update_fields=["first_name", "last_name", "time_zone"])
    who = row.get_username()
    audit.record(
        "user:profile:changed", actor=actor_for(row), now=now, subject=str(row.pk), user=who, fields=fields
    )


class Endable(Protocol):
    """A row that stands for a session: ``end`` deletes both."""

    def end(self) -> None: ...


@transaction.atomic
def end_sessions(user: User, sessions: Sequence[Endable], *, now: datetime) -> int:
    """Sign this person out where these sessions are; returns how many there were."""
    for session in sessions:
        session.end()
    if sessions:
        who, count = user.get_username(), len(sessions)
        audit.record(
            "user:sessions:ended",
            actor=actor_for(user),
            now=now,
            subject=str(user.pk),
            user=who,
            sessions=count,
        )
    return len(sessions)


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


@transaction.atomic
def note_password(user: User, *, now: datetime) -> None:
    """A person has chosen another password. Call it in the transaction of the change."""
    name = user.get_username()
    audit.record("user:password:set", actor=actor_for(user), now=now, subject=str(user.pk), user=name)
