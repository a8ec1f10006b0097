"""The evidence file on the page of a rotation: there when it is over, and as the API gives it."""

from __future__ import annotations

import pytest

from keyvault.actors import SYSTEM
from keyvault.crypto.evidence import verify_evidence
from keyvault.crypto.signed import read_document
from rotation.models import Rotation
from rotation.services import verbs
from rotation.services.evidence import evidence_of
from tests.evidence import public_key_set
from tests.integration.console import House, build, client_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def house() -> House:
    return build()


def finished(house: House) -> Rotation:
    rotation = house.start()
    ended = verbs.abort(SYSTEM, rotation.id, reason="enough", now=house.now, ring=lambda _: None)
    assert ended.stage == "cancelled"
    return ended


def test_a_finished_rotation_has_a_link_to_its_evidence(house: House) -> None:
    rotation = finished(house)
    page = client_of("vito").get(f"/rotations/{rotation.id}/").content.decode()
    assert f'href="/rotations/{rotation.id}/evidence/" download' in page
    answer = client_of("vito").get(f"/rotations/{rotation.id}/evidence/")
    assert answer["Content-Type"] == "application/json"
    name = f"evidence-background-removal-prod-{rotation.id.hex[:8]}.json"
    assert answer["Content-Disposition"] == f'attachment; filename="{name}"'
    document = read_document(answer.content)
    assert verify_evidence(document, public_key_set())
    assert document == evidence_of(rotation)


def test_an_open_rotation_has_none(house: House) -> None:
    rotation, lead = house.start(), client_of("lena")
    assert "evidence/" not in lead.get(f"/rotations/{rotation.id}/").content.decode()
    assert lead.get(f"/rotations/{rotation.id}/evidence/").status_code == 409
