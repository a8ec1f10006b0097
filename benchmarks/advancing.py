"""How long one worker process takes for rotations that are all due: ``python -m benchmarks.advancing COUNT``.

It puts COUNT keys of a seeded installation into the middle of a shift, with instances that ask and report,
lets the scheduler look at all of them, and prints how many seconds that took and what they wait for.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
django.setup()

from django.db import connection, models, transaction  # noqa: E402

from benchmarks.seeding import FIRST_WEIGHT, Table  # noqa: E402
from keyvault import clock  # noqa: E402
from keyvault.models import Grant, Key, LastDelivery, UsageBucket, UsageLine, UsageReport  # noqa: E402
from rotation.facts import Kind, OperationState, Side, Stage  # noqa: E402
from rotation.models import Operation, Rotation  # noqa: E402
from rotation.policy import STANDARD, to_json  # noqa: E402
from rotation.services import ticking  # noqa: E402

INSTANCES = ("web-1", "web-2")
REQUESTS = 40
POLICY = to_json(STANDARD)
STEP = next(n for n, step in enumerate(STANDARD.steps) if step.weight == FIRST_WEIGHT)


class Maker:
    """The rows of rotations in the middle of a shift, for keys that have a pending version."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._tables: dict[type[models.Model], Table] = {
            model: Table(model)
            for model in (Rotation, Operation, UsageReport, UsageLine, UsageBucket, LastDelivery)
        }

    def add(self, key: Key, consumer_id: uuid.UUID) -> None:
        now = self._now
        rotation = Rotation(
            key=key,
            policy_slug="standard",
            policy=POLICY,
            trigger="schedule",
            requested_by="keyturn",
            outgoing_id=key.current_id,
            incoming_id=key.pending_id,
            stage=Stage.SHIFT,
            step=STEP,
            weight=FIRST_WEIGHT,
            salt=key.split_salt,
            created_at=now,
            stage_entered_at=now,
            step_entered_at=now,
            deadline_at=now + STANDARD.deadline,
            check_at=now,
        )
        self._put(rotation)
        if key.current_id is None or key.pending_id is None:
            raise RuntimeError("a key in a shift has two versions")
        versions = {Side.OUTGOING: key.current_id, Side.INCOMING: key.pending_id}
        for (side, version_id), instance in zip(versions.items(), INSTANCES, strict=True):
            self._put(
                Operation(
                    rotation=rotation,
                    kind=Kind.PROBE,
                    side=side,
                    version_id=version_id,
                    state=OperationState.DONE,
                    outcome="accepted",
                    created_at=now,
                    finished_at=now,
                )
            )
            self._use(key, version_id, consumer_id, instance)

    def _use(self, key: Key, version_id: Any, consumer_id: uuid.UUID, instance: str) -> None:
        now = self._now
        place = {"key": key, "consumer_id": consumer_id, "instance": instance}
        report = UsageReport(
            **place, sequence=1, from_at=now - timedelta(minutes=1), to_at=now, received_at=now
        )
        self._put(report)
        line = UsageLine(
            **place,
            report=report,
            version_id=version_id,
            received_at=now,
            to_at=now,
            credential="key",
            ok=REQUESTS,
        )
        self._put(line)
        minute = now.replace(second=0, microsecond=0)
        self._put(
            UsageBucket(**place, version_id=version_id, minute=minute, deliveries=2, last_delivery_at=now)
        )
        self._put(LastDelivery(**place, version_id=version_id, last_at=now))

    def _put(self, row: models.Model) -> None:
        self._tables[type(row)].add(row)

    def write(self) -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # Rows as they stand in the middle; how they came there is not what is measured.
                cursor.execute("SET LOCAL session_replication_role = replica")
            for table in self._tables.values():
                table.write()


def prepare(count: int, now: datetime) -> None:
    keys = list(Key.objects.filter(pending__isnull=False).order_by("id")[:count])
    if len(keys) < count:
        raise RuntimeError(f"only {len(keys)} keys of this installation are in a shift")
    places = {(key.service_id, key.environment_id) for key in keys}
    granted = Grant.objects.filter(service_id__in=[service for service, _ in places])
    consumers = {
        (service, environment): consumer
        for service, environment, consumer in granted.values_list(
            "service_id", "environment_id", "consumer_id"
        )
    }
    maker = Maker(now)
    for key in keys:
        maker.add(key, consumers[key.service_id, key.environment_id])
    maker.write()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def ring(operation_id: uuid.UUID) -> None:
    raise RuntimeError("an operation is due: nothing was meant to be called")


def main() -> int:
    count = int(sys.argv[1])
    now = clock.now()
    prepare(count, now)
    started = time.perf_counter()
    looked = 0
    while looked < count:
        seen = ticking.tick(now, ring=ring)
        if not seen:
            raise RuntimeError(f"only {looked} of {count} rotations were due")
        looked += seen
    seconds = time.perf_counter() - started
    waiting = Counter(Rotation.objects.values_list("waiting_code", flat=True))
    print(json.dumps({"rotations": looked, "seconds": seconds, "waiting": waiting}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
