"""Rounds of kill -9: ``python -m tests.crash.rounds --rounds 200``. Prints what was counted as JSON.

A real process moves rotations on, against a provider in a process of its own, and is killed at a random
instant, again and again. Django is imported once; each round is a fork of that. Time is an argument, so a
day of rotations passes in seconds. In the end nothing may be lost and nothing doubled.

The database is the one of ``DATABASE_URL`` (or an SQLite file under ``KEYTURN_DATA``), migrated here.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import django

django.setup()

from django.conf import settings as django_settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Max, Model, QuerySet  # noqa: E402

from keyvault import clock  # noqa: E402
from keyvault.domain import State  # noqa: E402
from keyvault.models import AuditEvent, Delivery, KeyVersion, UsageReport  # noqa: E402
from keyvault.prepared import prepared  # noqa: E402
from keyvault.services import verifying  # noqa: E402
from rotation.facts import Kind, OperationState  # noqa: E402
from rotation.models import Operation, Rotation  # noqa: E402
from rotation.simulators import SimulatorClient  # noqa: E402
from tests.stories.conftest import BRISK  # noqa: E402
from tests.stories.world import START, World, rotation_rows  # noqa: E402

POLICY = replace(
    BRISK, monitor=timedelta(minutes=2), quiet=timedelta(minutes=1), cool_off=timedelta(minutes=1)
)
STEP = 10.0  # seconds of story time a beat
SIMULATOR = "removit"


class Remote(SimulatorClient):
    """The provider in its own process; it survives every kill."""

    slug = SIMULATOR


@dataclass
class RemoteSimulator:
    base_url: str
    host_port: str
    control: Remote
    admin_secret: Any


def begin() -> tuple[World, subprocess.Popen[str]]:
    call_command("migrate", verbosity=0)
    process = subprocess.Popen(
        [sys.executable, "-m", "rotation.simulators"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())[SIMULATOR]
    control = Remote(url)
    simulator = RemoteSimulator(url, url.removeprefix("http://"), control, control.admin_secret())
    world = World(simulator, django_settings, policy=POLICY, instances=3)  # type: ignore[arg-type]
    # Once to the end without a death: what a worker has in memory after its first minute, every fork has too.
    step(world)
    world.run(lambda: at_rest(world), step=STEP)
    gc.collect()
    gc.freeze()
    return world, process


def one_life(world: World) -> None:
    """What a worker does until it is killed: beat after beat, and a new rotation whenever one is over."""
    while True:
        step(world)


def step(world: World) -> None:
    newest = next(iter(rotation_rows(world.key_id)), None)
    if newest is None or (not newest.is_open and newest.check_at is None):
        world.now += timedelta(seconds=1)
        world.start()
    elif newest.attention == "possible_orphan":
        world.verb("resume")
    world.tick(STEP)


def last(model: type[Model], moment: str) -> Callable[[], datetime | None]:
    """Asks for the latest moment of this kind in any row."""

    @prepared
    def moments() -> QuerySet[Any, datetime]:
        rows = model._default_manager.filter(**{f"{moment}__isnull": False}).order_by(f"-{moment}")
        return rows.values_list(moment, flat=True)[:1]

    return moments.first


MOMENTS = (
    last(Rotation, "last_check_at"),
    last(Delivery, "at"),
    last(Operation, "lease_until"),
    last(AuditEvent, "at"),
)


@prepared
def counted_so_far(key_id: uuid.UUID) -> QuerySet[UsageReport, Any]:
    reports = UsageReport.objects.filter(key_id=key_id).order_by()
    return reports.values_list("instance").annotate(Max("sequence"))


def latest() -> datetime:
    """Story time goes on where the database says it was."""
    return max(at for at in (START, *(moment() for moment in MOMENTS)) if at is not None)


def round_of(world: World, rng: random.Random, longest: float) -> bool:
    """Fork a life, kill it; True where it was alive when the signal came."""
    connection.close()
    child = os.fork()
    if child == 0:
        os.close(1)
        try:
            one_life(world)
        finally:
            os._exit(3)
    time.sleep(rng.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    catch_up(world)
    return os.WIFSIGNALED(status)


def catch_up(world: World) -> None:
    """What the child that died knew: the time, and how far its instances have counted their reports."""
    world.now = latest() + timedelta(seconds=1)
    counted: dict[str, int] = dict(counted_so_far(world.key_id))
    for instance in world.instances:
        instance.sequence = counted.get(instance.name, 0)


def check_now(world: World) -> list[str]:
    """What must be true at any instant, whatever has just died."""
    problems = []
    key = world.key
    if key.current is None or not world.honoured(key.current.number):
        problems.append("the current version is not honoured")
    if key.pending is not None and key.weight and not world.honoured(key.pending.number):
        problems.append("the pending version is not honoured")
    if sum(rotation.is_open for rotation in rotation_rows(world.key_id)) > 1:
        problems.append("two open rotations")
    return problems


def check_chain() -> list[str]:
    finding = verifying.prove((), clock.now()).finding
    return [] if finding is None else [finding.what]


def check_end(world: World) -> list[str]:
    """Nothing lost, nothing doubled: the provider's keys are exactly those that we say live."""
    ours = set(
        KeyVersion.objects.filter(key=world.key_id, state=State.ACTIVE).values_list(
            "provider_key_id", flat=True
        )
    )
    views = world.control.keys()
    living = {view.id for view in views if view.live}
    problems = check_chain()
    if living != ours:
        problems.append(f"{len(living - ours)} orphans and {len(ours - living)} lost keys at the provider")
    if sum(world.failures.values()):
        problems.append("a consumer saw a failure")
    for rotation in Rotation.objects.filter(key=world.key_id):
        events = AuditEvent.objects.filter(subject=str(rotation.id), name="rotation:stage").order_by(
            "sequence"
        )
        stages = [event.details["stage"] for event in events]
        if (stages or ["requested"])[-1] != rotation.stage or len(stages) != len(set(stages)):
            problems.append(f"events do not rebuild a rotation: {stages} is not {rotation.stage}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20260302)
    parser.add_argument("--longest", type=float, default=0.12, help="seconds a life may last")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    world, process = begin()
    counted: Counter[str] = Counter()
    problems: list[str] = []
    try:
        for _ in range(options.rounds):
            counted["killed"] += round_of(world, rng, options.longest)
            problems += check_now(world)
        world.run(lambda: at_rest(world), most=600)
        problems += check_end(world)
        counted["rotations"] = Rotation.objects.filter(stage="succeeded").count()
        counted["unknown"] = Operation.objects.filter(kind=Kind.RECONCILE, state=OperationState.DONE).count()
        counted["events"] = AuditEvent.objects.count()
        counted["deliveries"] = Delivery.objects.count()
    finally:
        process.terminate()
        process.wait(timeout=60)
    sys.stdout.write(json.dumps({"rounds": options.rounds, **counted, "problems": problems}) + "\n")
    return 1 if problems else 0


def at_rest(world: World) -> bool:
    last = world.rotation
    if last.attention == "possible_orphan":
        world.verb("resume")
    return not last.is_open and last.check_at is None


if __name__ == "__main__":
    sys.exit(main())
