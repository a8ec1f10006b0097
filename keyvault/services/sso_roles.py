"""Roles that single sign-on gives and takes away. What a person set by hand is never touched."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import structlog
from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.domain import OrganisationRole, Role
from keyvault.models import Team, User
from keyvault.services import people

log = structlog.get_logger("keyturn.people")

PROVIDER: Final = Actor(kind="system", name="single-sign-on")
_WHY: Final = "groups at the identity provider"


def note_new(user: User, *, now: datetime) -> None:
    """Somebody signed in for the first time and is a person here from now on."""
    with transaction.atomic():
        audit.record("user:created", actor=PROVIDER, now=now, subject=str(user.pk), user=user.get_username())


def apply(user: User, *, organisation: OrganisationRole, teams: Mapping[str, Role], now: datetime) -> None:
    """Make the roles of this person those that the provider's groups give, at each sign-in.

    Each change is a transaction of its own, so that the audit chain is never held while another row is
    waited for; what a crash leaves undone is done at the next sign-in.
    """
    held = {member.team.slug: member for member in user.memberships.select_related("team", "user")}
    found = {team.slug: team for team in Team.objects.filter(slug__in=teams)}
    for slug in sorted(teams.keys() - found.keys()):
        log.warning("sso_team_unknown", team=slug)
    for slug, team in sorted(found.items()):
        member = held.get(slug)
        if member is None or (member.from_sso and member.role != teams[slug].value):
            with transaction.atomic():
                people.join(PROVIDER, team, user, teams[slug], now=now, from_sso=True, why=_WHY)
    for slug, member in sorted(held.items()):
        if member.from_sso and slug not in teams:
            with transaction.atomic():
                people.leave(PROVIDER, member, now=now, why=_WHY)
    by_hand = user.organisation_role and not user.organisation_role_from_sso
    if not by_hand and user.organisation_role != organisation.value:
        given = organisation is not OrganisationRole.NONE
        with transaction.atomic():
            people.give_organisation_role(PROVIDER, user, organisation, now=now, from_sso=given, why=_WHY)
