"""Teams, members and people's tokens."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.envelope import IntegrityError
from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import KeyturnError
from keyvault.integrity import sign
from keyvault.models import AuditEvent, Key, Membership, Team, User, UserToken
from keyvault.services import people
from tests.integration.furniture import NOW, Furniture, furnish

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def person(name: str, role: OrganisationRole = OrganisationRole.NONE) -> User:
    return people.create_person(name, "a long enough password", role=role)


def member(furniture: Furniture, name: str, role: Role) -> Actor:
    user = person(name)
    people.set_member(SYSTEM, furniture.team, username=name, role=role, now=NOW)
    return actor_for(user)


def refused(code: str) -> pytest.RaisesExc[KeyturnError]:
    return pytest.RaisesExc(KeyturnError, check=lambda error: error.code == code)


def test_only_an_administrator_creates_a_team(furniture: Furniture) -> None:
    lead = member(furniture, "lead", Role.LEAD)
    with refused("permission_denied"):
        people.create_team(lead, slug="mine", name="", now=NOW)
    admin = actor_for(person("boss", OrganisationRole.ADMIN))
    team = people.create_team(admin, slug="mine", name="", now=NOW)
    assert (team.name, team.memberships.count()) == ("mine", 0)
    with refused("validation_error"):
        people.create_team(admin, slug="mine", name="", now=NOW)
    assert Team.objects.filter(slug="mine").count() == 1


@pytest.mark.parametrize(
    ("role", "allowed"), [(Role.VIEWER, False), (Role.OPERATOR, False), (Role.LEAD, True)]
)
def test_only_a_lead_decides_who_belongs_to_the_team(furniture: Furniture, role: Role, allowed: bool) -> None:
    actor = member(furniture, "asker", role)
    person("newcomer")
    if role is not Role.LEAD:
        with refused("permission_denied"):
            people.set_member(actor, furniture.team, username="newcomer", role=Role.VIEWER, now=NOW)
        with refused("permission_denied"):
            people.remove_member(actor, furniture.team, username="asker", now=NOW)
        assert Membership.objects.count() == 1
        return
    people.set_member(actor, furniture.team, username="newcomer", role=Role.VIEWER, now=NOW)
    people.remove_member(actor, furniture.team, username="newcomer", now=NOW)
    names = [event.name for event in AuditEvent.objects.order_by("sequence")][-2:]
    assert names == ["team:member:set", "team:member:removed"]


def test_setting_a_member_again_changes_the_role_and_nothing_else(furniture: Furniture) -> None:
    person("someone")
    first = people.set_member(SYSTEM, furniture.team, username="someone", role=Role.VIEWER, now=NOW)
    again = people.set_member(
        SYSTEM, furniture.team, username="someone", role=Role.LEAD, now=NOW + timedelta(days=1)
    )
    assert (again.pk, again.role, again.created_at) == (first.pk, "lead", NOW)


def test_a_stranger_or_a_former_colleague_is_not_made_a_member(furniture: Furniture) -> None:
    person("gone")
    User.objects.filter(username="gone").update(is_active=False)
    for name in ("gone", "never-was"):
        with refused("validation_error"):
            people.set_member(SYSTEM, furniture.team, username=name, role=Role.VIEWER, now=NOW)
    with refused("not_found"):
        people.remove_member(SYSTEM, furniture.team, username="never-was", now=NOW)


def test_people_see_the_keys_of_their_teams_and_auditors_see_all(furniture: Furniture) -> None:
    mine, theirs = furniture.key(), furnish().key()
    viewer = member(furniture, "viewer", Role.VIEWER)
    auditor = actor_for(person("auditor", OrganisationRole.AUDITOR))
    assert set(Key.objects.for_actor(viewer)) == {mine}
    assert set(Key.objects.for_actor(auditor)) == {mine, theirs}
    assert auditor.may("view", furniture.team.id)
    assert not auditor.may("operate", furniture.team.id)
    assert not viewer.may("operate", furniture.team.id)


def test_a_name_is_taken_once(db: None) -> None:
    person("twin")
    with refused("validation_error"):
        person("twin")
    assert User.objects.filter(username="twin").count() == 1


def test_ensure_admin_makes_or_raises_an_administrator(db: None) -> None:
    user = people.ensure_admin("boss", now=NOW)
    assert not user.has_usable_password()
    User.objects.filter(pk=user.pk).update(organisation_role="", is_active=False)
    again = people.ensure_admin("boss", now=NOW)
    assert (again.pk, again.organisation_role, again.is_active) == (user.pk, "admin", True)


# Tokens --------------------------------------------------------------------------------------------


def test_a_token_opens_the_door_until_it_expires(db: None) -> None:
    user = person("someone")
    row, token = people.create_user_token(user, expires_at=NOW + timedelta(hours=8), now=NOW)
    assert people.user_for_token(token.expose(), now=NOW) == user
    assert people.user_for_token(token.expose(), now=NOW + timedelta(hours=8)) is None
    with refused("validation_error"):
        people.create_user_token(user, expires_at=NOW, now=NOW)
    assert token.expose() not in str(UserToken.objects.filter(pk=row.pk).values())
    assert token.expose() not in str(list(AuditEvent.objects.values("details", "subject")))


def test_a_token_of_somebody_who_left_or_that_was_revoked_opens_nothing(db: None) -> None:
    user = person("someone")
    row, token = people.create_user_token(user, expires_at=NOW + timedelta(hours=8), now=NOW)
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert people.user_for_token(token.expose(), now=NOW) is None
    User.objects.filter(pk=user.pk).update(is_active=True)
    row.revoked_at = NOW
    sign(row)
    row.save()
    assert people.user_for_token(token.expose(), now=NOW) is None


def test_what_is_no_user_token_is_nobody(furniture: Furniture) -> None:
    _, consumer_token = furniture.reader()
    other = people.create_user_token(person("x"), expires_at=NOW + timedelta(hours=1), now=NOW)[1].expose()
    changed = other[:-1] + ("0" if other[-1] != "0" else "1")
    for text in ("", "ktu_", "nonsense", consumer_token.expose(), changed, other + " "):
        assert people.user_for_token(text, now=NOW) is None


def test_a_token_that_somebody_extended_by_sql_opens_nothing(db: None) -> None:
    row, token = people.create_user_token(person("late"), expires_at=NOW + timedelta(hours=1), now=NOW)
    UserToken.objects.filter(pk=row.pk).update(expires_at=NOW + timedelta(days=900))
    with pytest.raises(IntegrityError):
        people.user_for_token(token.expose(), now=NOW + timedelta(days=1))
