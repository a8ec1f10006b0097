"""manage.py emergency, as somebody on the machine uses it."""

from __future__ import annotations

import io
import re
import uuid
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from rotation.models import EmergencyRun, Rotation
from rotation.services import runs
from tests.integration.furniture import NOW, Furniture, fresh_secret, furnish


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def emergency(*arguments: str) -> str:
    out = io.StringIO()
    call_command("emergency", *arguments, stdout=out)
    return out.getvalue()


def started(furniture: Furniture) -> str:
    last = emergency("plan", "team", furniture.team.slug).splitlines()[-1]
    told = emergency("start", "team", furniture.team.slug, "--reason", "leaked", *last.split())
    return told.splitlines()[-1].split()[0]


def test_plan_start_stop_resume_show(furniture: Furniture) -> None:
    key = furniture.key()
    shown = emergency("plan", "team", furniture.team.slug)
    assert f"{key}  v1  of {furniture.team.slug}: start" in shown
    assert re.search(r"^--count 1 --plan [0-9a-f]{64}$", shown, re.MULTILINE)
    assert not EmergencyRun.objects.exists()
    run = started(furniture)
    assert "stopped: 1 waiting" in emergency("stop", run, "--reason", "wait")
    runs.carry_on(NOW, ring=lambda _: None)
    assert not Rotation.objects.exists()
    assert "running: 1 waiting" in emergency("resume", run, "--reason", "on")
    runs.carry_on(EmergencyRun.objects.get().created_at, ring=lambda _: None)
    assert "1 running" in emergency("show", run)


def test_a_leak_is_read_from_standard_input(furniture: Furniture, monkeypatch: Any) -> None:
    secret = fresh_secret()
    key = furniture.key(secret=secret)
    monkeypatch.setattr("sys.stdin", io.StringIO(secret.expose() + "\n"))
    shown = emergency("plan", "leak")
    assert str(key) in shown
    assert secret.expose() not in shown
    monkeypatch.setattr("sys.stdin", io.StringIO("two words\n"))
    with pytest.raises(CommandError, match="white space inside"):
        emergency("plan", "leak")


def test_refusals_are_said(furniture: Furniture) -> None:
    furniture.key()
    with pytest.raises(CommandError, match="There is no such team"):
        emergency("plan", "team", "nobody")
    with pytest.raises(CommandError, match="not the plan any more"):
        emergency("start", "team", furniture.team.slug, "--reason", "x", "--count", "1", "--plan", "0")
    with pytest.raises(CommandError, match="Not found"):
        emergency("show", str(uuid.uuid4()))
