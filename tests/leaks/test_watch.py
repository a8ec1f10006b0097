"""The watch over the whole suite sees what it is there to see."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from keyvault.models import Team
from tests.integration.furniture import NOW, fresh_secret

log = structlog.get_logger("keyturn.test")


def by_structlog(text: str) -> None:
    log.warning("something happened", address=f"https://provider.example/?id={text}")


def by_logging(text: str) -> None:
    logging.getLogger("a.library").warning("sent %s", text)


def by_an_error(text: str) -> None:
    try:
        raise ValueError(f"not a number: {text!r}")
    except ValueError:
        log.exception("it failed")


def by_a_column(text: str) -> None:
    Team.objects.create(slug="t", name=text, created_at=NOW)


def by_a_part_of_a_column(text: str) -> None:
    Team.objects.create(slug="t", name=f"the one with {text}", created_at=NOW)


def by_a_query(text: str) -> None:
    assert not Team.objects.filter(name=text).exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "leak", [by_structlog, by_logging, by_an_error, by_a_column, by_a_part_of_a_column, by_a_query]
)
def test_a_leak_is_seen(leak: Callable[[str], None], leak_watch: Any) -> None:
    secret = fresh_secret()
    leak("something-else-1234567890")
    Team.objects.all().delete()
    assert leak_watch.found == []
    leak(secret.expose())
    assert leak_watch.found != []
    leak_watch.found.clear()
