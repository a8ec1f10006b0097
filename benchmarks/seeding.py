"""Rows for an installation that is not running: ``python -m benchmarks.seeding callers|keys|secrets ...``.

Every secret is minted, sealed, digested and signed by the functions that Keyturn itself uses. Only the way
into the tables is shorter: COPY, with triggers and checks of foreign keys off.
"""

from __future__ import annotations

import argparse
import json
import os
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
django.setup()

from django.db import connection, models, transaction  # noqa: E402

from keyvault import clock  # noqa: E402
from keyvault.crypto.mac import fingerprint_digest  # noqa: E402
from keyvault.crypto.tokens import TokenKind, digest, hint, mint  # noqa: E402
from keyvault.domain import State  # noqa: E402
from keyvault.integrity import sign  # noqa: E402
from keyvault.keystore import keys, open_version, seal_version  # noqa: E402
from keyvault.models import (  # noqa: E402
    Consumer,
    ConsumerToken,
    Environment,
    Grant,
    Key,
    KeyVersion,
    Provider,
    Service,
    Team,
)

ENVIRONMENT = "dev"
NO_LIMIT = 2_000_000_000  # requests a minute; the column's largest is a little more
CHUNK = 2_000  # keys in one transaction
FIRST_WEIGHT = 25
TOKENS, SECRETS = "bench-tokens.json", "bench-secrets.json"  # in the data directory


class Table:
    """Collects rows of one model for COPY. A row object may be used again: its columns are read at once."""

    def __init__(self, model: type[models.Model]) -> None:
        fields = [
            field for field in model._meta.concrete_fields if not isinstance(field, models.BigAutoField)
        ]
        names = ", ".join(f'"{field.column}"' for field in fields)
        self._statement = f'COPY "{model._meta.db_table}" ({names}) FROM STDIN'
        self._readers = [_reader(field) for field in fields]
        self._rows: list[list[Any]] = []

    def add(self, row: models.Model) -> None:
        self._rows.append([read(row) for read in self._readers])

    def write(self) -> None:
        with connection.cursor() as cursor, cursor.copy(self._statement) as copy:
            for row in self._rows:
                copy.write_row(row)
        self._rows.clear()


def _reader(field: models.Field[Any, Any]) -> Callable[[models.Model], Any]:
    name = field.attname
    if isinstance(field, models.JSONField):
        return lambda row: json.dumps(getattr(row, name))
    return lambda row: getattr(row, name)


def make_callers(count: int, now: datetime) -> None:
    """Consumers ``bench-0``... with one token each; the tokens go to a file in the data directory."""
    team = Team.objects.create(slug="bench", name="Bench", created_at=now)
    environment = Environment.objects.get(slug=ENVIRONMENT)
    consumers = [Consumer(slug=f"bench-{number}", team=team, created_at=now) for number in range(count)]
    tokens, texts = [], []
    for consumer in consumers:
        secret = mint(TokenKind.CONSUMER, ENVIRONMENT)
        row = ConsumerToken(
            consumer=consumer,
            environment=environment,
            digest=digest(keys().service.pepper, secret.expose()),
            hint=hint(secret),
            rate_per_minute=NO_LIMIT,
            created_at=now,
        )
        sign(row)
        tokens.append(row)
        texts.append(secret.expose())
    with transaction.atomic():
        Consumer.objects.bulk_create(consumers)
        ConsumerToken.objects.bulk_create(tokens)
    _write(TOKENS, texts)


def _write(name: str, texts: list[str]) -> None:
    path = Path(os.environ["KEYTURN_DATA"]) / name
    path.touch(mode=0o600)
    path.write_text(json.dumps(texts))


class Maker:
    """Makes the rows of one key after the other, in objects that are used again."""

    def __init__(self, per_consumer: int, now: datetime) -> None:
        self._environment = Environment.objects.get(slug=ENVIRONMENT)
        numbered = Consumer.objects.filter(slug__startswith="bench-").values_list("slug", "id")
        self._consumers = {int(slug.removeprefix("bench-")): row_id for slug, row_id in numbered}
        self._per_consumer = per_consumer
        team, provider = Team.objects.get(slug="bench"), Provider.objects.get(slug="internal")
        self._service = Service(team=team, provider=provider, created_at=now)
        self._key = Key(service=self._service, environment=self._environment, created_at=now)
        self._version = KeyVersion(state=State.ACTIVE, created_at=now, activated_at=now)
        self._grant = Grant(environment=self._environment, verbs=["read", "verify"], created_at=now)
        self._tables = {model: Table(model) for model in (Service, KeyVersion, Key, Grant)}

    def make(self, number: int, *, shifting: bool) -> None:
        """Key ``number`` with its service, grant and version; a second version while it is shifting."""
        service, key = self._service, self._key
        service.id, key.id = uuid.uuid4(), uuid.uuid4()
        service.slug = f"bench-{number}"
        key.service_id = service.id
        key.current_id = self._make_version(1)
        key.pending_id, key.weight, key.split_salt = None, None, b""
        if shifting:
            key.pending_id, key.weight, key.split_salt = self._make_version(2), FIRST_WEIGHT, os.urandom(32)
        sign(key)
        grant = self._grant
        grant.id = uuid.uuid4()
        grant.service_id = service.id
        grant.consumer_id = self._consumers[number // self._per_consumer]
        sign(grant)
        for row in (service, key, grant):
            self._tables[type(row)].add(row)

    def _make_version(self, number: int) -> uuid.UUID:
        version, service_keys = self._version, keys().service
        version.id, version.number = uuid.uuid4(), number
        version.key = self._key
        secret = mint(TokenKind.ISSUED, ENVIRONMENT)
        seal_version(version, secret)
        version.fingerprint = fingerprint_digest(service_keys.fingerprint, secret)
        version.token_digest = digest(service_keys.pepper, secret.expose())
        sign(version)
        self._tables[KeyVersion].add(version)
        return version.id

    def write(self) -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # What is written is complete; asking about each row would take longer than writing it.
                cursor.execute("SET LOCAL session_replication_role = replica")
            for table in self._tables.values():
                table.write()


def make_keys(numbers: Iterable[int], *, per_consumer: int, shifting_every: int, now: datetime) -> None:
    maker = Maker(per_consumer, now)
    for done, number in enumerate(numbers, start=1):
        maker.make(number, shifting=bool(shifting_every) and number % shifting_every == 0)
        if done % CHUNK == 0:
            maker.write()
    maker.write()


def open_secrets(count: int) -> None:
    """The current secrets of keys 0..``count`` - 1 go to a file in the data directory, in this order."""
    wanted = [f"bench-{number}" for number in range(count)]
    versions = KeyVersion.objects.filter(current_of__service__slug__in=wanted).order_by()
    held = versions.select_related("key__service", "key__environment")
    opened = {version.key.service.slug: open_version(version).expose() for version in held}
    _write(SECRETS, [opened[slug] for slug in wanted])


def main() -> int:
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("callers", "secrets"):
        kinds.add_parser(kind).add_argument("count", type=int)
    wanted = kinds.add_parser("keys")
    wanted.add_argument("first", type=int)
    wanted.add_argument("beyond", type=int)
    wanted.add_argument("--per-consumer", type=int, required=True)
    wanted.add_argument("--shifting-every", type=int, default=0)
    chosen = parser.parse_args()
    now = clock.now()
    if chosen.kind == "callers":
        make_callers(chosen.count, now)
    elif chosen.kind == "secrets":
        open_secrets(chosen.count)
    else:
        numbers = range(chosen.first, chosen.beyond)
        rules = {"per_consumer": chosen.per_consumer, "shifting_every": chosen.shifting_every}
        make_keys(numbers, **rules, now=now)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
