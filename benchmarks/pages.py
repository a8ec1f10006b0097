"""How long the console's pages take among very many keys: ``python -m benchmarks.pages REQUESTS``.

It puts rotations into a seeded installation, spreads the dates of its keys and writes audit events, then asks
for each page as a lead of the team that owns all of it: through the whole of Django, without a network.
Prints the 95th percentile of each in milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from datetime import datetime, timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
os.environ["KEYTURN_REQUIRE_MFA"] = "false"  # what is measured comes after the sign-in
os.environ["KEYTURN_LOG_LEVEL"] = "WARNING"
django.setup()

from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402

from benchmarks.advancing import prepare  # noqa: E402
from benchmarks.goals import PAGES  # noqa: E402
from benchmarks.seeding import ENVIRONMENT, Table  # noqa: E402
from keyvault import clock  # noqa: E402
from keyvault.models import AuditEvent, AuditHead, Membership, Team, User  # noqa: E402
from rotation.models import KeySchedule, Rotation  # noqa: E402

EVENTS, ROTATIONS, WARM_UP = 100_000, 500, 3


def furnish(now: datetime) -> User:
    """Rotations that are open, keys that are due and overdue, a long audit trail; and who looks at them."""
    prepare(ROTATIONS, now)
    keys = KeySchedule.objects.count()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE rotation_keyschedule SET next_rotation_at = %s + random() * interval '60 days'",
            [now - timedelta(days=3)],
        )
    team = Team.objects.get(slug="bench")
    _write_events(team, keys, now)
    person = User.objects.create(username="bench")
    Membership.objects.create(team=team, user=person, role="lead", created_at=now)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return person


def _write_events(team: Team, keys: int, now: datetime) -> None:
    """They are only read here, so they need no MAC. What is written afterwards comes behind them."""
    head, _ = AuditHead.objects.get_or_create(singleton=True)
    first, table = head.sequence + 1, Table(AuditEvent)
    for number in range(EVENTS):
        event = AuditEvent(
            sequence=first + number,
            at=now - timedelta(seconds=EVENTS - number),
            name="key:promoted" if number % 2 else "rotation:stage",
            actor_kind="system",
            actor="keyturn",
            team_id=team.id,
            service=f"bench-{random.randrange(keys)}",
            environment=ENVIRONMENT,
            details={"version": 2, "previous": 1} if number % 2 else {"was": "shift", "stage": "monitor"},
            mac=b"",
        )
        table.add(event)
    table.write()
    AuditHead.objects.update(sequence=first + EVENTS - 1)


def paths(page: str, requests: int) -> list[str]:
    """What is asked for; another key or another word each time where there is one."""
    if page == "key":
        return [f"/keys/bench-{random.randrange(1_000)}/{ENVIRONMENT}/" for _ in range(requests)]
    if page == "rotation":
        known = Rotation.objects.values_list("id", flat=True)[:requests]
        return [f"/rotations/{rotation_id}/" for rotation_id in known]
    if page == "search":
        return [f"/search/?q=bench-{random.randrange(1_000)}" for _ in range(requests)]
    return [
        {"overview": "/", "matrix": "/matrix/", "keys": "/keys/?show=due", "audit": "/audit/"}[page]
    ] * requests


def p95(client: Client, asked: list[str]) -> float:
    taken = []
    for path in asked:
        started = time.perf_counter()
        answer = client.get(path)
        taken.append((time.perf_counter() - started) * 1000)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}")
    kept = sorted(taken[WARM_UP:])
    return kept[min(len(kept) - 1, int(len(kept) * 0.95))]


def main() -> int:
    requests = int(sys.argv[1]) + WARM_UP
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(furnish(clock.now()))
    print(json.dumps({page: p95(client, paths(page, requests)) for page in PAGES}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
