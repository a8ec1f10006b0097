"""The overview and the matrix ask the same number of questions for three services as for thirty."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from keyvault.actors import SYSTEM
from keyvault.models import Key
from rotation.services import starting
from tests.browser.furniture import plain_key
from tests.integration.console import House, add_service, build, client_of, deliver

pytestmark = pytest.mark.django_db


def grow(house: House, first: int, last: int) -> None:
    """Services with keys in two environments; every third one is being rotated, every third one is due."""
    for n in range(first, last):
        service = add_service(house.team, f"service-{n}", house.now)
        plain_key(service, "dev", f"dev-secret-{n}-Qw8mZ", now=house.now, next_in=timedelta(days=n % 9 - 1))
        plain_key(service, "prod", f"prod-secret-{n}-Xy2kV", now=house.now)
        if n % 3 == 0:
            key = Key.objects.named(service.slug, "prod").get()
            starting.start(SYSTEM, key, now=house.now, ring=lambda _: None)


def queries(client: Client, path: str, **headers: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as seen:
        assert client.get(path, headers=headers).status_code == 200
    return len(seen)


@pytest.mark.parametrize(
    "path", ["/", "/matrix/", "/keys/", "/search/?q=service", "/rotations/", "/consumers/", "/channels/"]
)
def test_the_number_of_queries_does_not_grow_with_the_rows(path: str) -> None:
    house = build()
    client = client_of("lena")
    grow(house, 0, 4)
    client.get(path)  # the first request of a session also saves it
    few = queries(client, path)
    grow(house, 4, 31)
    client.get(path)  # should a minute have passed meanwhile, it is saved again
    assert queries(client, path) == few
    assert few <= 26


def test_a_key_page_does_not_ask_more_for_more_readers() -> None:
    house = build()
    client, path = client_of("lena"), "/keys/background-removal/prod/"
    deliver(house.prod, house.now, consumer="one")
    client.get(path)  # the first request of a session also saves it
    few = queries(client, path)
    for n in range(12):
        deliver(house.prod, house.now, consumer=f"more-{n}")
    client.get(path)
    assert queries(client, path) == few
