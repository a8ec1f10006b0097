"""The demo data of the first-run page: real rotations of made-up keys, and nothing left afterwards."""

from __future__ import annotations

import uuid
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection

from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import Consumer, Environment, Key, Service, Team
from keyvault.services import catalogue, keys
from rotation import operations
from rotation.models import KeySchedule, Rotation
from rotation.services import demodata, ticking
from tests.integration.console import build, client_of

pytestmark = pytest.mark.django_db

KEPT = {
    "keyvault.auditevent",
    "keyvault.audithead",
    "keyvault.change",
    "keyvault.changecounter",
    "keyvault.heartbeat",
}
SECOND = timedelta(seconds=1)


def rows() -> dict[str, int]:
    models = [*apps.get_app_config("keyvault").get_models(), *apps.get_app_config("rotation").get_models()]
    return {
        model._meta.label_lower: model._default_manager.count()
        for model in models
        if model._meta.label_lower not in KEPT
    }


def run_on(now: datetime, seconds: int) -> datetime:
    """Beats and workers, every other second of this long."""
    end = now + seconds * SECOND
    while now < end:
        now += 2 * SECOND
        rung: deque[uuid.UUID] = deque()
        ticking.tick(now, ring=rung.append)
        while rung:
            operations.perform(rung.popleft(), now, ring=rung.append)
    return now


def test_its_rotations_end_by_themselves_and_all_of_it_can_be_removed(settings: Any) -> None:
    build()
    before, now = rows(), datetime.now(UTC)
    first = demodata.add(SYSTEM, now=now, ring=lambda _: None)
    assert Key.objects.filter(service__team__slug=demodata.TEAM).count() == 9
    with pytest.raises(KeyturnError, match="being rotated"):
        demodata.remove(SYSTEM, now=now)

    now = run_on(now, 240)
    first.refresh_from_db()
    assert first.stage == "succeeded"
    due = Rotation.objects.exclude(pk=first.pk).get()
    assert (due.trigger, due.stage) == ("schedule", "succeeded")

    demodata.remove(SYSTEM, now=now)
    assert rows() == before
    connection.check_constraints()
    demodata.add(SYSTEM, now=now, ring=lambda _: None)


def test_what_people_put_into_its_team_is_never_deleted() -> None:
    house = build()
    demodata.add(SYSTEM, now=house.now, ring=lambda _: None)
    Rotation.objects.update(stage="cancelled", finished_at=house.now)
    team = Team.objects.get(slug=demodata.TEAM)
    mine = catalogue.create_service(
        SYSTEM, slug="mine", team=team, provider=house.service.provider, description="", now=house.now
    )
    key = keys.create_key(SYSTEM, mine, Environment.objects.get(slug="dev"), now=house.now)
    keys.import_first(SYSTEM, key, Secret("my-own-secret-Zk81mP"), now=house.now)
    with pytest.raises(KeyturnError, match="belong to its team: mine"):
        demodata.remove(SYSTEM, now=house.now)
    assert Service.objects.filter(team=team).count() == 4


def test_an_administrator_adds_and_removes_it_with_a_click_and_nobody_else() -> None:
    build()
    lead, admin = client_of("lena"), client_of("ada")
    assert lead.post("/demo-data/").status_code == 403
    assert admin.get("/demo-data/").status_code == 405
    made = admin.post("/demo-data/")
    assert made["Location"] == f"/rotations/{Rotation.objects.get().id}/"
    assert "made up" in admin.get("/").content.decode()
    answer = admin.post("/demo-data/remove/")
    assert answer.status_code == 409
    Rotation.objects.update(stage="cancelled", finished_at=datetime.now(UTC))
    assert admin.post("/demo-data/remove/")["Location"] == "/"
    assert not Consumer.objects.filter(slug=demodata.CONSUMER).exists()
    assert not KeySchedule.objects.filter(policy__slug=demodata.POLICY).exists()
