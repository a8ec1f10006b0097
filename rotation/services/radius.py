"""What an emergency would touch: the keys that leaked, and what would happen to each. Reads only."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q, QuerySet

from keyvault import jobs, readers
from keyvault.actors import Actor
from keyvault.crypto.mac import fingerprint_digest, keyed_digest
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import digest
from keyvault.domain import Role, State
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.keystore import keys
from keyvault.models import (
    AuditEvent,
    ConsumerToken,
    Environment,
    Grant,
    Key,
    KeyVersion,
    Membership,
    Provider,
    Service,
    Team,
    User,
)
from rotation.facts import Stage
from rotation.models import Rotation
from rotation.services.emergencies import SEEN_SPAN, Way, is_last, way_of, with_one_key

SCOPES = ("provider", "team", "environment", "service", "person", "leak")
PROTECTED_FIRST = 1000
_WITHOUT_A_NEW_ONE = (Stage.REQUESTED, Stage.DEPLOY)
_HELD = (State.ACTIVE, State.DISABLED)
_SHOWN_TO = ("key:revealed", "key:version:imported", "rotation:supplied")
_WORDS = {"key:revealed": "revealed", "key:version:imported": "pasted", "rotation:supplied": "pasted"}


@dataclass(frozen=True)
class Target:
    """A version that is taken to be known to others (None: its key has none), and why it is on the list."""

    key: Key
    version: KeyVersion | None
    why: str


@dataclass(frozen=True)
class Refusal:
    code: str
    message: str


@dataclass(frozen=True)
class PlannedKey:
    """One key: who owns it, who uses the leaked version, and what would happen to it."""

    target: Target
    way: Way
    rotation: Rotation | None
    instances: tuple[str, ...]  # given the leaked version in the last 24 hours
    open_jobs: int
    last: bool  # no other version could answer consumers
    gap: bool  # the provider allows one key only: consumers have none until the new one is there
    refusal: Refusal | None


@dataclass(frozen=True)
class PlannedToken:
    """A consumer token of ours that leaked: ``kill`` revokes it. ``exposed`` are the keys that it opens."""

    token: ConsumerToken
    exposed: tuple[str, ...]
    refusal: Refusal | None


@dataclass(frozen=True)
class Radius:
    """The plan of a bulk emergency, most urgent first. ``digest`` changes when the plan does."""

    scope: str
    subject: str
    mode: str
    keys: tuple[PlannedKey, ...] = ()
    tokens: tuple[PlannedToken, ...] = ()
    digest: str = field(default="", compare=False)

    @property
    def count(self) -> int:
        """How many would be started: the number that has to be typed."""
        return self.refusals.count(None)

    @property
    def refusals(self) -> list[Refusal | None]:
        """Why what is not started is not: one for each key, then one for each token."""
        return [one.refusal for one in self.keys] + [one.refusal for one in self.tokens]


# Choosing ------------------------------------------------------------------------------------------


def chosen(
    actor: Actor, scope: str, name: str = "", *, leak: Secret | None = None, reachable: bool = False
) -> tuple[list[Target], list[ConsumerToken], str]:
    """The versions and tokens that a scope names, among those the actor may know of, and the scope's name.

    ``reachable`` adds to what a person has seen every key that the person could have revealed. Raises
    ``validation_error`` for a name that is not there, and ``permission_denied`` for a person's keys to all
    but administrators.
    """
    visible = Key.objects.for_actor(actor).select_related(
        "service__provider", "service__team", "environment", "current", "pending", "previous"
    )
    if leak is not None:
        return _of_leak(visible, leak), _tokens_of_leak(actor, leak), ""
    if scope == "person":
        actor.demand_admin()
        return _of_person(visible, name, reachable=reachable), [], name
    rows = _named(actor, visible, scope, name)
    return [Target(key, key.current, f"{scope} {name}") for key in rows], [], name


def _named(actor: Actor, visible: QuerySet[Key], scope: str, name: str) -> QuerySet[Key]:
    known: QuerySet[Provider] | QuerySet[Team] | QuerySet[Environment] | QuerySet[Service]
    match scope:
        case "provider":
            known, column = Provider.objects.all(), "service__provider"
        case "team":
            known, column = Team.objects.for_actor(actor), "service__team"
        case "environment":
            known, column = Environment.objects.all(), "environment"
        case _:
            known, column = Service.objects.for_actor(actor), "service"
    row = known.filter(slug=name).first()
    if row is None:
        raise invalid(scope, f"There is no such {scope}.")
    return visible.filter(**{column: row})


def versions_of_leak(leak: Secret) -> QuerySet[KeyVersion]:
    """The versions that hold this secret and that a provider may honour; also keys that we issued."""
    mine = keys().service
    same = Q(fingerprint=fingerprint_digest(mine.fingerprint, leak))
    same |= Q(token_digest=digest(mine.pepper, leak.expose()))
    return KeyVersion.objects.filter(same, state__in=_HELD)


def _of_leak(visible: QuerySet[Key], leak: Secret) -> list[Target]:
    held = versions_of_leak(leak)
    found = {key.id: key for key in visible.filter(id__in=held.values("key_id"))}
    return [
        Target(found[version.key_id], version, "holds the pasted secret")
        for version in held
        if version.key_id in found
    ]


def _tokens_of_leak(actor: Actor, leak: Secret) -> list[ConsumerToken]:
    wanted = digest(keys().service.pepper, leak.expose())
    rows = ConsumerToken.objects.filter(digest=wanted, revoked_at__isnull=True)
    if not actor.sees_everything:
        rows = rows.filter(consumer__team_id__in=actor.team_ids)
    return list(rows.select_related("consumer__team", "environment"))


def _of_person(visible: QuerySet[Key], name: str, *, reachable: bool) -> list[Target]:
    """1. Versions that the person revealed or pasted, as the audit tells, while a provider may honour them.
    2. With ``reachable``, the current version of every key of a team whose lead the person is or was."""
    if not User.objects.filter(username=name).exists():
        raise invalid("person", "There is no person with this username.")
    seen: dict[tuple[str, str, int], str] = {}
    told = AuditEvent.objects.filter(actor_kind="user", actor=name, name__in=_SHOWN_TO).order_by("sequence")
    for event in told:
        place = (event.service, event.environment, int(event.details["version"]))
        seen[place] = f"{name} {_WORDS[event.name]} it on {event.at:%Y-%m-%d}"
    mine = visible.filter(
        service__slug__in={place[0] for place in seen}, environment__slug__in={place[1] for place in seen}
    )
    rows = {(key.service.slug, key.environment.slug): key for key in mine}
    held = KeyVersion.objects.filter(key__in=[key.id for key in rows.values()], state__in=_HELD)
    by_number = {(version.key_id, version.number): version for version in held}
    found: list[Target] = []
    for (service, environment, number), why in seen.items():
        key = rows.get((service, environment))
        version = by_number.get((key.id, number)) if key is not None else None
        if key is not None and version is not None:
            found.append(Target(key, version, why))
    if reachable:
        known = {target.key.id for target in found}
        led = visible.filter(service__team_id__in=_teams_led(name)).exclude(id__in=known)
        found += [Target(key, key.current, f"{name} could reveal it as lead") for key in led]
    return found


def _teams_led(name: str) -> set[uuid.UUID]:
    """The teams whose lead the person is, or was: who left may have taken a key along."""
    now = Membership.objects.filter(user__username=name, role=Role.LEAD).values_list("team_id", flat=True)
    made = AuditEvent.objects.filter(
        name="team:member:set", details__user=name, details__role=Role.LEAD.value, team_id__isnull=False
    )
    return {*now, *(team for team in made.values_list("team_id", flat=True) if team is not None)}


# Planning ------------------------------------------------------------------------------------------


def radius(
    actor: Actor,
    targets: Sequence[Target],
    tokens: Sequence[ConsumerToken],
    *,
    scope: str,
    subject: str,
    mode: str,
    now: datetime,
) -> Radius:
    """The plan: a fixed number of queries, however many keys there are."""
    key_ids = [target.key.id for target in targets]
    open_rotations = {
        rotation.key_id: rotation
        for rotation in Rotation.objects.open()
        .filter(key_id__in=key_ids)
        .select_related("incoming", "outgoing")
    }
    versions = [target.version.id for target in targets if target.version is not None]
    given = readers.instances_of_versions(key_ids, versions, now - SEEN_SPAN)
    opened: dict[uuid.UUID, int] = {}
    for row in jobs.open_jobs_of(versions):
        opened[row[1]] = opened.get(row[1], 0) + max(0, row[4])
    narrow = with_one_key([target.key for target in targets])
    planned = [
        _plan(actor, target, open_rotations.get(target.key.id), given, opened, target.key.id in narrow)
        for target in sorted(targets, key=_order)
    ]
    marked = [_plan_token(actor, token, mode) for token in tokens]
    drawn = Radius(scope, subject, mode, tuple(planned), tuple(marked))
    return Radius(scope, subject, mode, drawn.keys, drawn.tokens, _digest(actor, drawn))


def urgency(environment: Environment) -> int:
    """Protected environments before all others, and those nearer to production before those behind them."""
    return environment.position + (PROTECTED_FIRST if environment.protected else 0)


def _order(target: Target) -> tuple[int, str, str, int]:
    key = target.key
    number = target.version.number if target.version is not None else 0
    return -urgency(key.environment), key.service.slug, key.environment.slug, -number


def _plan(
    actor: Actor,
    target: Target,
    rotation: Rotation | None,
    given: dict[uuid.UUID, set[str]],
    opened: dict[uuid.UUID, int],
    narrow: bool,
) -> PlannedKey:
    version = target.version
    way = way_of(target.key, version, rotation) if version is not None else Way.NOTHING
    refusal = None
    if not actor.may("manage", target.key.service.team_id):
        refusal = Refusal("permission_denied", "This needs the role lead in the team.")
    elif version is None:
        refusal = Refusal("no_active_version", "This key has no active version.")
    elif way is Way.NOTHING:
        refusal = Refusal("version_gone", "The provider refuses this version already.")
    return PlannedKey(
        target=target,
        way=way,
        rotation=rotation,
        instances=tuple(sorted(given.get(version.id, ()))) if version is not None else (),
        open_jobs=opened.get(version.id, 0) if version is not None else 0,
        last=version is not None and is_last(target.key, version),
        gap=narrow and (way is Way.START or (rotation is not None and rotation.stage in _WITHOUT_A_NEW_ONE)),
        refusal=refusal,
    )


def _plan_token(actor: Actor, token: ConsumerToken, mode: str) -> PlannedToken:
    grants = Grant.objects.filter(consumer=token.consumer, environment=token.environment)
    exposed = sorted(
        f"{grant.service.slug}/{token.environment.slug}"
        for grant in grants.select_related("service")
        if "read" in grant.verbs
    )
    refusal = None
    if not actor.may("manage", token.consumer.team_id):
        refusal = Refusal("permission_denied", "This needs the role lead in the team.")
    elif mode == "replace":
        refusal = Refusal(
            "invalid_transition", "Only its consumer can take up a new token: rotate it, or kill it."
        )
    return PlannedToken(token, tuple(exposed), refusal)


def _digest(actor: Actor, drawn: Radius) -> str:
    """Of what would be done to what, and for whom. Instances come and go every second and are left out."""
    lines: list[object] = [
        [
            str(planned.target.key.id),
            planned.target.version.number if planned.target.version is not None else 0,
            str(planned.way),
            str(planned.rotation.id) if planned.rotation is not None else "",
            planned.rotation.policy_slug == "emergency" if planned.rotation is not None else False,
            planned.refusal.code if planned.refusal is not None else "",
        ]
        for planned in drawn.keys
    ]
    lines += [[str(planned.token.id), planned.refusal is None] for planned in drawn.tokens]
    whole = json.dumps([actor.name, drawn.scope, drawn.subject, drawn.mode, lines])
    return keyed_digest(keys().service.etag, "emergency-plan", whole.encode())


def demand_confirmed(drawn: Radius, *, count: int, plan: str) -> None:
    """Raise ``precondition_failed`` unless this is the plan that was seen and its number was typed.

    ``permission_denied`` or ``validation_error`` where it would start nothing.
    """
    if drawn.count == 0 and any(one and one.code == "permission_denied" for one in drawn.refusals):
        raise denied("This needs the role lead in the team.")
    if drawn.count == 0:
        raise invalid("count", "There is nothing that could be started.")
    if plan != drawn.digest:
        raise KeyturnError("precondition_failed", "This is not the plan any more. Look at it again.")
    if count != drawn.count:
        raise KeyturnError(
            "precondition_failed", f"{drawn.count} would be started. Type that number to confirm."
        )


def of_versions(versions: Iterable[KeyVersion], actor: Actor, why: str) -> list[Target]:
    """The targets for these versions, among the keys the actor may know of."""
    wanted = {version.key_id: version for version in versions}
    rows = (
        Key.objects.for_actor(actor)
        .filter(id__in=wanted)
        .select_related("service__provider", "service__team", "environment", "current", "pending", "previous")
    )
    return [Target(key, wanted[key.id], why) for key in rows]
