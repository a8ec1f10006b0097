"""Who is still on the old key, with whom to ask, and reminding them; buttons that are off and why."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.domain import Role
from keyvault.models import AuditEvent, Consumer, Team, User
from keyvault.services import consumers, people
from rotation.console.ahead import Ahead, ahead
from rotation.console.choices import moved
from rotation.facts import Observations
from rotation.models import Rotation
from rotation.notice_rows import Notice
from rotation.policy import Policy, Step
from rotation.services import channels
from tests.integration.console import House, build, client_of, deliver

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def house() -> House:
    """A rotation in monitor; an instance of a consumer that is Shop's still has the old key."""
    house = build(clock.now())
    deliver(house.prod, house.now - timedelta(minutes=10), consumer="billing", instance="web-7")
    shop = Team.objects.get(slug="shop")
    User.objects.filter(username="stranger").update(email="stranger@example.org")
    Consumer.objects.update(team=shop)
    rotation = house.start()
    for stage in ("shift", "monitor"):
        Rotation.objects.filter(pk=rotation.pk).update(stage=stage)
    return house


def page_of(house: House, username: str = "lena") -> str:
    return client_of(username).get(f"/rotations/{house.prod.rotations.get().id}/").content.decode()


def test_the_page_names_the_instance_its_owner_and_its_last_fetch(house: House) -> None:
    page = page_of(house)
    proof = page[page.index("Quiet proof") :]
    assert "billing/web-7" in proof
    assert '<a href="mailto:stranger@example.org">stranger</a>' in proof
    assert re.search(r"last <time", proof)
    assert "Remind billing" in proof
    assert "Remind billing" not in page_of(house, "vito")


def test_a_reminder_goes_to_the_channels_of_the_owners_once_an_hour(house: House) -> None:
    shop, rotation = Team.objects.get(slug="shop"), house.prod.rotations.get()
    path = f"/rotations/{rotation.id}/remind/billing/"
    lead = client_of("lena")
    assert "billing/web-7" in lead.get(path).content.decode()
    answer = lead.post(path, follow=True).content.decode()
    assert "Nobody was told: the team Shop has no channel" in answer
    channels.create_channel(
        SYSTEM, slug="shop-mail", team=shop, kind="mail", url=None, fields={}, now=house.now
    )
    people.set_member(SYSTEM, shop, username="stranger", role=Role.OPERATOR, now=house.now)
    assert "is being told" in lead.post(path, follow=True).content.decode()
    (notice,) = Notice.objects.all()
    assert (notice.kind, notice.recipient) == ("rotation.reminder", "stranger@example.org")
    assert "billing/web-7" in notice.facts["reason"]
    assert "Nobody was told" in lead.post(path, follow=True).content.decode()
    assert Notice.objects.count() == 1
    event = AuditEvent.objects.get(name="rotation:reminded")
    assert (event.actor, event.details["consumer"]) == ("lena", "billing")


def test_a_reminder_needs_the_role_and_somebody_in_the_way(house: House) -> None:
    rotation = house.prod.rotations.get()
    path = f"/rotations/{rotation.id}/remind/"
    assert client_of("vito").post(f"{path}billing/").status_code == 403
    assert client_of("stranger").post(f"{path}billing/").status_code == 404
    lead = client_of("lena")
    assert lead.post(f"{path}nobody/").status_code == 404
    consumers.set_grant(
        SYSTEM, Consumer.objects.get(slug="billing"), house.service, house.prod.environment,
        verbs=["read"], now=house.now,
    )  # fmt: skip
    Rotation.objects.filter(pk=rotation.pk).update(stage="revoke")
    assert lead.get(f"{path}billing/").status_code == 409
    assert lead.post(f"{path}billing/").status_code == 409


def test_a_button_that_is_off_says_why(house: House) -> None:
    lead, operator, viewer = page_of(house), page_of(house, "otto"), page_of(house, "vito")
    assert "Time and the quiet proof move it on" in lead
    assert 'id="verb-force-revoke"' in lead
    assert 'id="not-force-revoke"' in operator
    assert "This needs the role lead in the team." in operator
    assert "not-" not in re.findall(r'<button[^>]+id="([^"]+)"', viewer)
    assert "Why some buttons are off" not in viewer


def test_the_page_says_what_comes_next_and_when(house: House) -> None:
    row = house.prod.rotations.get()
    policy = Policy(steps=(Step(25, MINUTE), Step(100, MINUTE)), monitor=10 * MINUTE, cool_off=5 * MINUTE)
    row.stage, row.step, row.step_entered_at = "shift", 0, house.now
    assert ahead(row, policy) == Ahead(house.now + MINUTE, "it moves to 100 %")
    row.step = 1
    assert ahead(row, policy) == Ahead(
        house.now + MINUTE, "everybody has the new key, and the monitoring begins"
    )
    row.stage, row.monitored_seconds, row.last_check_at = "monitor", 240, house.now.replace(microsecond=0)
    expected = Ahead(row.last_check_at + 6 * MINUTE, "v1 leaves service, if nobody uses it by then")
    assert ahead(row, policy) == expected
    row.stage, row.stage_entered_at = "revoke", house.now
    assert ahead(row, policy) == Ahead(house.now + 5 * MINUTE, "v1 is revoked")
    row.paused = True
    assert ahead(row, policy) is None


def test_going_back_tells_how_many_are_on_the_new_key_now() -> None:
    some = Observations(instances=12, assigned=3)
    assert moved(some) == "12 instance(s) are active now, 3 of them for the new key."
    assert moved(Observations(instances=0)) == "No active instance is known now."
