"""The list of keys, the search, filters in the address, times in the reader's zone, a late scheduler."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.models import Heartbeat, Key, KeyVersion
from keyvault.services import consumers
from rotation.console import filters
from tests.browser.furniture import plain_key
from tests.integration.console import House, add_service, build, client_of

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def house() -> House:
    """Keys that are overdue, due, calm, rotating and compromised."""
    house = build()
    for slug, environment, due in (
        ("late-one", "prod", -2), ("later-one", "dev", -1), ("soon-one", "prod", 3), ("calm-one", "dev", 40),
    ):  # fmt: skip
        service = add_service(house.team, slug, house.now)
        plain_key(service, environment, f"made-up-{slug}-Xy2kV", now=house.now, next_in=due * DAY)
    leaked = Key.objects.named("calm-one", "dev").get()
    KeyVersion.objects.filter(key=leaked).update(compromised_at=house.now)
    house.start()
    return house


def listed(client: Client, path: str, **wanted: str) -> list[str]:
    """The keys or rotations of the first column, in their order."""
    page = client.get(path, wanted).content.decode()
    return re.findall(r'<th scope="row"[^>]*><a href="[^"]*">([^<]+)</a>', page)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"show": "overdue"}, ["late-one", "later-one"]),
        ({"show": "due"}, ["soon-one"]),
        ({"show": "rotating"}, ["background-removal"]),
        ({"show": "compromised"}, ["calm-one"]),
        ({"show": "empty"}, []),
        ({"environment": "dev"}, ["calm-one", "later-one"]),
        ({"q": "late one"}, ["late-one", "later-one"]),
        ({"q": "one/prod"}, ["late-one", "soon-one"]),
        ({"team": "shop"}, []),
        ({"provider": "internal", "q": "calm"}, ["calm-one"]),
    ],
)
def test_keys_are_narrowed_by_what_stands_in_the_address(
    house: House, wanted: dict[str, str], found: list[str]
) -> None:
    assert listed(client_of("lena"), "/keys/", **wanted) == found


def test_beyond_a_limit_a_count_says_so_instead_of_visiting_every_row(house: House) -> None:
    rows = Key.objects.all()
    exact, capped = filters.counted(rows, 5), filters.counted(rows, 4)
    assert (str(exact), str(capped)) == ("5", "4+")
    assert bool(filters.counted(rows.none())) is False
    page = client_of("lena").get("/").content.decode()
    assert re.search(r'show=overdue"><span class="name">Overdue</span><span class="figure warn">2<', page)


def test_a_list_is_turned_page_by_page_and_keeps_its_filter(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "PAGE", 2)
    lead, seen, path = client_of("lena"), [], "/keys/?q=one"
    for _ in range(2):
        page = lead.get(path).content.decode()
        seen.append(re.findall(r'<th scope="row"[^>]*><a href="[^"]*">([^<]+)</a>', page))
        link = re.search(r'rel="next" href="([^"]+)"', page)
        path = f"/keys/{link[1].replace('&amp;', '&')}" if link else ""
    assert seen == [["calm-one", "late-one"], ["later-one", "soon-one"]]
    assert path == ""
    for odd in ("0", "-1", "x", "²", "99999999999999999999"):
        assert lead.get("/keys/", {"page": odd}).status_code == 200


def test_rotations_are_narrowed_by_state_place_and_name(house: House) -> None:
    lead = client_of("lena")
    for wanted, number in (
        ({"state": "open"}, 1), ({"state": "finished"}, 0), ({"state": "attention"}, 0),
        ({"state": "odd"}, 0), ({"environment": "prod"}, 1), ({"environment": "dev"}, 0),
        ({"q": "removal/prod"}, 1), ({"q": "one"}, 0),
    ):  # fmt: skip
        assert len(listed(lead, "/rotations/", **wanted)) == number, wanted


def test_consumers_are_narrowed_by_what_they_lack(house: House) -> None:
    bare = consumers.create_consumer(SYSTEM, slug="bare", team=house.team, now=house.now)
    ready = consumers.create_consumer(SYSTEM, slug="ready", team=house.team, now=house.now)
    prod = house.prod
    consumers.create_token(SYSTEM, ready, prod.environment, expires_at=house.now + DAY, now=house.now)
    consumers.set_grant(SYSTEM, ready, prod.service, prod.environment, verbs=["read"], now=house.now)
    lead = client_of("lena")
    assert listed(lead, "/consumers/") == [bare.slug, "ready"]
    for show in ("without-token", "without-grant"):
        assert listed(lead, "/consumers/", show=show) == ["bare"]
    assert listed(lead, "/consumers/", show="unused") == ["bare", "ready"]
    assert listed(lead, "/consumers/", q="read") == ["ready"]


def test_the_search_finds_everything_with_that_name_and_nothing_of_strangers(house: House) -> None:
    consumers.create_consumer(SYSTEM, slug="background-worker", team=house.team, now=house.now)
    lead = client_of("lena")
    page = lead.get("/search/", {"q": "background"}).content.decode()
    headings = re.findall(r"<h2>(Services|Keys|Consumers|Rotations)</h2>", page)
    assert headings == ["Services", "Keys", "Consumers", "Rotations"]
    rotation = house.prod.rotations.get()
    assert str(rotation.id) in lead.get("/search/", {"q": str(rotation.id)}).content.decode()
    stranger = client_of("stranger").get("/search/", {"q": "background"}).content.decode()
    assert "Nothing is called" in stranger
    assert "What are you looking for" in lead.get("/search/").content.decode()


def test_times_are_told_in_the_readers_zone_with_utc_beside_them(house: House) -> None:
    lead = client_of("lena")
    version = house.prod.current
    assert version is not None
    assert version.activated_at is not None
    at = version.activated_at
    assert f"{at:%Y-%m-%d %H:%M:%S} UTC</time>" in lead.get("/keys/background-removal/prod/").content.decode()
    lead.cookies["keyturn_zone"] = "Asia/Kolkata"
    page = lead.get("/keys/background-removal/prod/").content.decode()
    there = at + timedelta(hours=5, minutes=30)
    assert f'title="{at:%Y-%m-%d %H:%M:%S} UTC">{there:%Y-%m-%d %H:%M:%S} IST</time>' in page
    assert 'data-zone="Asia/Kolkata"' in page
    for odd in ("../../etc/passwd", "Europe", "x" * 4000, "<b>"):
        lead.cookies["keyturn_zone"] = odd
        assert 'data-zone="' not in lead.get("/keys/").content.decode()


def test_every_page_says_when_the_scheduler_does_not_run(house: House) -> None:
    lead = client_of("lena")
    Heartbeat.objects.update_or_create(name="beat", defaults={"at": clock.now()})
    assert "rotations stand still" not in lead.get("/keys/").content.decode()
    Heartbeat.objects.update(at=house.now - timedelta(minutes=5))
    for path in ("/", "/matrix/", "/keys/", "/consumers/"):
        assert "rotations stand still" in lead.get(path).content.decode()
    Heartbeat.objects.all().delete()
    assert "has not run yet" in lead.get("/keys/").content.decode()
