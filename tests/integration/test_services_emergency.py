"""A leaked key is marked as leaked, whatever else happens to it."""

from __future__ import annotations

import pytest

from keyvault.actors import SYSTEM
from keyvault.integrity import verify
from keyvault.models import AuditEvent
from rotation.models import RotationPolicy
from rotation.services import emergencies, starting
from tests.integration.furniture import NOW, Furniture, furnish, reread_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


@pytest.mark.parametrize("mode", ["replace", "kill"])
@pytest.mark.parametrize("already_rotating", [False, True])
def test_the_leak_stays_on_record(furniture: Furniture, mode: str, already_rotating: bool) -> None:
    key = furniture.key()
    assert key.current is not None
    standard = RotationPolicy.objects.get(slug="standard")
    if already_rotating:
        starting.start(SYSTEM, key, policy=standard, now=NOW, ring=lambda _: None)
    rotation = emergencies.emergency(
        SYSTEM, key, mode=mode, reason="in a log", typed=str(key), now=NOW, ring=lambda _: None
    )

    leaked = reread_version(key.current)
    verify(leaked)
    assert leaked.compromised_at == NOW
    assert (leaked.withheld_at is not None) == (mode == "kill")
    assert rotation.policy_slug == "emergency"
    assert AuditEvent.objects.filter(name="key:version:compromised").count() == 1
