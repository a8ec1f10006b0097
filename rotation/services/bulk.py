"""Importing many keys at once: all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import Environment, Key, Service
from keyvault.services import keys as key_services
from rotation.models import RotationPolicy
from rotation.services.policies import assign_policy

MOST_ROWS = 10_000


@dataclass(frozen=True)
class KeyRow:
    """One key to import. ``number`` is its row in the file; an empty ``policy`` is the environment's."""

    number: int
    service: str
    environment: str
    secret: Secret
    policy: str = ""
    provider_key_id: str = ""


@dataclass(frozen=True)
class Problem:
    """Why one row is refused. The text never holds what stands in the row."""

    row: int
    message: str


class ImportRefused(Exception):
    """Nothing was imported; ``problems`` says why, row by row."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem(s)")
        self.problems = sorted(problems, key=lambda problem: problem.row)


@dataclass
class _Names:
    """Everything that rows refer to, looked up once."""

    services: Mapping[str, Service]
    environments: Mapping[str, Environment]
    policies: Mapping[str, RotationPolicy]
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)


@transaction.atomic
def import_keys(actor: Actor, rows: Sequence[KeyRow], *, now: datetime) -> int:
    """Give each row's key its first version; a key that is not there yet is created. Returns how many.

    1. Names and doublets are checked for all rows. 2. Keys that exist are locked, in one order.
    3. Every row is imported by the same services as a single one; those that are refused are collected.
    Raises ``ImportRefused`` with every problem found, and then nothing has changed.
    """
    if len(rows) > MOST_ROWS:
        raise ImportRefused(
            [Problem(rows[MOST_ROWS].number, f"At most {MOST_ROWS} rows are imported at once.")]
        )
    names = _look_up(actor, rows)
    problems = [*_strangers(rows, names), *_doublets(rows)]
    if problems:
        raise ImportRefused(problems)
    _lock_existing(rows, names)
    for row in rows:
        try:
            with transaction.atomic():
                _import(actor, row, names, now)
        except KeyturnError as error:
            texts = [text for field_texts in error.fields.values() for text in field_texts]
            problems.append(Problem(row.number, " ".join(texts) or error.message))
    if problems:
        raise ImportRefused(problems)
    return len(rows)


def _look_up(actor: Actor, rows: Sequence[KeyRow]) -> _Names:
    wanted = {row.service for row in rows}
    services = Service.objects.for_actor(actor).select_related("team", "provider")
    return _Names(
        services={service.slug: service for service in services if service.slug in wanted},
        environments={environment.slug: environment for environment in Environment.objects.all()},
        policies={policy.slug: policy for policy in RotationPolicy.objects.all()},
    )


def _strangers(rows: Sequence[KeyRow], names: _Names) -> list[Problem]:
    # What is not found is not repeated: it may be a secret in the wrong column.
    found = []
    for row in rows:
        if row.service not in names.services:
            found.append(Problem(row.number, "service: there is no such service."))
        if row.environment not in names.environments:
            known = ", ".join(names.environments)
            found.append(Problem(row.number, f"environment: use one of {known}."))
        if row.policy and row.policy not in names.policies:
            known = ", ".join(names.policies)
            found.append(Problem(row.number, f"policy: use one of {known}, or leave it empty."))
    return found


def _doublets(rows: Sequence[KeyRow]) -> list[Problem]:
    first: dict[tuple[str, str], int] = {}
    found = []
    for row in rows:
        earlier = first.setdefault((row.service, row.environment), row.number)
        if earlier != row.number:
            found.append(Problem(row.number, f"this key stands in row {earlier} already."))
    return found


def _lock_existing(rows: Sequence[KeyRow], names: _Names) -> None:
    """Lock before the first audit event: its chain is the last lock that anybody takes."""
    wanted = {(row.service, row.environment) for row in rows}
    services = [service.id for service in names.services.values()]
    held = Key.objects.select_for_update(of=("self",)).filter(service_id__in=services).order_by("id")
    for key in held.select_related("service", "environment"):
        place = (key.service.slug, key.environment.slug)
        if place in wanted:
            names.keys[place] = key


def _import(actor: Actor, row: KeyRow, names: _Names, now: datetime) -> None:
    key = names.keys.get((row.service, row.environment))
    if key is None:
        key = key_services.create_key(
            actor, names.services[row.service], names.environments[row.environment], now=now
        )
    key_services.import_first(actor, key, row.secret, provider_key_id=row.provider_key_id, now=now)
    assign_policy(actor, key, names.policies[row.policy] if row.policy else None, now=now)
