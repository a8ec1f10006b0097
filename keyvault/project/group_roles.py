"""From the groups that an identity provider names to roles here. Pure rules; a setting holds the table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyvault.domain import OrganisationRole, Role

_STRENGTH: Final = {role: place for place, role in enumerate((Role.VIEWER, Role.OPERATOR, Role.LEAD))}
_ORGANISATION: Final = (OrganisationRole.NONE, OrganisationRole.AUDITOR, OrganisationRole.ADMIN)


@dataclass(frozen=True)
class Given:
    """What a person's groups give: one role in the organisation, and one in each team, by slug."""

    organisation: OrganisationRole = OrganisationRole.NONE
    teams: Mapping[str, Role] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.organisation is not OrganisationRole.NONE or bool(self.teams)


def parse_rules(document: object) -> Mapping[str, tuple[Given, ...]]:
    """The table ``{"group": "team:role" | "auditor" | "admin" | [several of these]}``.

    Raises ``ValueError`` with the group that is wrong.
    """
    if not isinstance(document, dict):
        raise ValueError("KEYTURN_OIDC_ROLES must be a JSON object: group -> role.")
    return {str(group): _givens(str(group), named) for group, named in document.items()}


def _givens(group: str, named: object) -> tuple[Given, ...]:
    texts = named if isinstance(named, list) else [named]
    try:
        return tuple(_given(str(text)) for text in texts)
    except ValueError:
        raise ValueError(
            f"KEYTURN_OIDC_ROLES, group {group}: say team:viewer, team:operator, team:lead, auditor or admin."
        ) from None


def _given(text: str) -> Given:
    team, colon, role = text.rpartition(":")
    if colon and team:
        return Given(teams={team: Role(role)})
    if not text:
        raise ValueError(text)
    return Given(organisation=OrganisationRole(text))


def given_by(rules: Mapping[str, tuple[Given, ...]], groups: Collection[str]) -> Given:
    """What these groups give together; where several speak of one team, the strongest role counts."""
    organisation, teams = OrganisationRole.NONE, dict[str, Role]()
    for group in groups:
        for given in rules.get(group, ()):
            organisation = max(organisation, given.organisation, key=_ORGANISATION.index)
            for team, role in given.teams.items():
                teams[team] = max(teams.get(team, Role.VIEWER), role, key=_STRENGTH.__getitem__)
    return Given(organisation, teams)


def groups_in(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """The groups in a claim: a list of texts or one text. Dots in ``name`` lead into objects."""
    value: Any = claims.get(name)
    if value is None:
        value = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        return frozenset({value})
    return (
        frozenset(text for text in value if isinstance(text, str)) if isinstance(value, list) else frozenset()
    )
