"""Who acts: a person, a consumer, or Keyturn itself, and what each may do."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import denied
from keyvault.models import Membership, User

Action = Literal["view", "operate", "manage"]

_LEAST_ROLE: Mapping[Action, frozenset[Role]] = {
    "view": frozenset(Role),
    "operate": frozenset({Role.OPERATOR, Role.LEAD}),
    "manage": frozenset({Role.LEAD}),
}


@dataclass(frozen=True)
class Actor:
    """The one on whose behalf something is done; ``name`` is what audit events print."""

    kind: Literal["user", "consumer", "system"]
    name: str
    user_id: int | None = None
    organisation_role: OrganisationRole = OrganisationRole.NONE
    roles: Mapping[uuid.UUID, Role] = field(default_factory=dict)

    @property
    def is_admin(self) -> bool:
        return self.kind == "system" or self.organisation_role == OrganisationRole.ADMIN

    @property
    def sees_everything(self) -> bool:
        return self.is_admin or self.organisation_role == OrganisationRole.AUDITOR

    @property
    def is_elevated(self) -> bool:
        """Whether this is somebody whose session is worth stealing: an administrator or a lead."""
        return self.is_admin or Role.LEAD in self.roles.values()

    @property
    def team_ids(self) -> list[uuid.UUID]:
        return list(self.roles)

    def may(self, action: Action, team_id: uuid.UUID) -> bool:
        """Whether this actor may do that to things of this team."""
        if self.is_admin or (action == "view" and self.sees_everything):
            return True
        role = self.roles.get(team_id)
        return role is not None and role in _LEAST_ROLE[action]

    def demand(self, action: Action, team_id: uuid.UUID) -> None:
        """Raise ``permission_denied`` unless allowed. For rows the actor may already see."""
        if not self.may(action, team_id):
            raise denied(_DENIALS[action])

    def demand_admin(self) -> None:
        if not self.is_admin:
            raise denied("Only an administrator of the organisation may do this.")


_DENIALS: Mapping[Action, str] = {
    "view": "You are not a member of this team.",
    "operate": "This needs the role operator or lead in the team.",
    "manage": "This needs the role lead in the team.",
}

SYSTEM = Actor(kind="system", name="keyturn")


def actor_for(user: User) -> Actor:
    """The actor behind a signed-in person, with the roles as they are now (one query)."""
    memberships = Membership.objects.filter(user=user).values_list("team_id", "role")
    return Actor(
        kind="user",
        name=user.get_username(),
        user_id=user.pk,
        organisation_role=OrganisationRole(user.organisation_role),
        roles={team_id: Role(role) for team_id, role in memberships},
    )
