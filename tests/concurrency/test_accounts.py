"""A code, a set-up link and the last lead's place: many ask for the same at the same moment, one gets it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.test import Client

from keyvault.actors import SYSTEM, actor_for
from keyvault.domain import Role
from keyvault.exceptions import KeyturnError
from keyvault.models import Membership, User
from keyvault.services import people, setup_links
from tests.browser.furniture import person
from tests.conftest import Tell
from tests.integration.console import client_of
from tests.integration.furniture import NOW, PATIENCE, Furniture, at_once, raised, returned
from tests.integration.processes import wait_for
from tests.integration.signing_in import code_of, new_app

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]
AT_ONCE = 32


def test_one_code_that_comes_often_at_once_in_many_spellings_counts_once(
    furniture: Furniture, tell: Tell
) -> None:
    cache.clear()
    person("lena")
    code = code_of(new_app(client_of("lena")))

    spellings = (code, f" {code} ", f"{code[:3]} {code[3:]}", " ".join(code))

    def confirm(client: Client, spelt: str) -> Callable[[], int]:
        return lambda: client.post("/accounts/2fa/reauthenticate/", {"code": spelt, "next": "/"}).status_code

    asked = [confirm(client_of("lena"), spellings[number % 4]) for number in range(AT_ONCE)]
    answers = returned(at_once(*asked))
    tell("one code at once", {"requests": AT_ONCE, "successes": answers.count(302)})
    assert answers.count(302) == 1
    assert set(answers) == {200, 302, 429}  # after five tries of one person nobody looks at the code any more


def test_a_set_up_link_makes_one_person(furniture: Furniture) -> None:
    _, secret = setup_links.invite(SYSTEM, furniture.team, username="nora", role=Role.VIEWER, now=NOW)

    def use() -> int:
        return setup_links.use(secret.expose(), "a long enough password", now=NOW).pk

    outcomes = at_once(*([use] * 8))
    assert len(returned(outcomes)) == 1
    assert {getattr(error, "code", error) for error in raised(outcomes)} == {"not_found"}
    assert Membership.objects.filter(team=furniture.team, user__username="nora").count() == 1


def someone_waits() -> bool:
    """Whether another connection waits for a lock of ours."""
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_locks where not granted")
        return bool(cursor.fetchone()[0])


def test_two_leads_who_leave_at_once_leave_one(furniture: Furniture) -> None:
    for name in ("lena", "lars"):
        person(name)
        people.set_member(SYSTEM, furniture.team, username=name, role=Role.LEAD, now=NOW)
    lena, lars = (actor_for(User.objects.get(username=name)) for name in ("lena", "lars"))
    outcome: list[object] = []

    def lars_leaves() -> None:
        outcome.extend(at_once(lambda: people.remove_member(lars, furniture.team, username="lars", now=NOW)))

    thread = threading.Thread(target=lars_leaves)
    with transaction.atomic():
        people.remove_member(lena, furniture.team, username="lena", now=NOW)
        thread.start()
        wait_for(someone_waits, "the other lead is on the way out")
    thread.join(PATIENCE)
    (refused,) = raised(outcome)
    assert isinstance(refused, KeyturnError)
    assert "You are the last lead" in refused.fields["user"][0]
    assert Membership.objects.filter(team=furniture.team, role="lead").count() == 1
