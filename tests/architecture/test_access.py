"""Who gets which answer, compared with the file that people review (``tests/access``)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from django.db import transaction
from pytest_django import DjangoDbBlocker

from keyvault import clock
from tests.access.asking import UNSAFE, ask, lines
from tests.access.house import CALLERS, House, build, confirm
from tests.access.reviewed import name_of, reviewed
from tests.access.routes import Route, routes

_OFFERED = re.compile(r'(href|action)="(/(?!static/|accounts/|v1/)[^"#]*)"')
GROUPS = ("accounts", "api-custody", "api-rotation", "pages-custody", "pages-rotation", "project", "records")
FRESH = 60.0  # seconds; on a busy machine, what follows may take minutes
# One set-up for each half, so that two workers share the work.
HALVES = {group: "access-pages" if group.startswith("pages") else "access-rest" for group in GROUPS}
DONE = ("200", "201", "202", "204", "302", "200 secret")

# What anybody who is signed in may do, and nobody else's business.
ONES_OWN = ("/accounts/", "/profile/", "/channels/my-mail/", "/leaks/new/", "/v1/leaks/")
# Descriptions that belong to nobody: whoever is signed in may look at them.
EVERYBODYS = (
    "/policies/",
    "/providers/",
    "/v1/policies/",
    "/v1/providers/",
    "/v1/environments/",
    "/accounts/",
)
# Django's admin answers a POST to a page that it only shows as if it were a GET.
SHOWN = ("/admin/",)
# Nobody gets through, whatever is sent: links that are made up, things that are not there, verbs that no
# rotation of the house takes just now, and the reveal, which no token can ask for.
NOT_HERE = (
    "/setup/{token}/",
    "/join/{token}/",
    "/demo-data/remove/",
    "/people/{user_id}/second-factor/",
    "/rotations/{rotation_id}/advance/",
    "/rotations/{rotation_id}/confirm-revoked/",
    "/v1/token-scanning/report/",
    "/rotations/{rotation_id}/force-revoke/",
    "/rotations/{rotation_id}/no-verb/",
    "/rotations/{rotation_id}/remind/{consumer}/",
    "/emergency/{run_id}/no-verb/",
    "/v1/rotations/{rotation}/advance/",
    "/v1/rotations/{rotation}/confirm-revoked/",
    "/v1/rotations/{rotation}/force-revoke/",
    "/v1/keys/{service}/{environment}/reveal/",
)


@pytest.fixture(scope="module")
def built(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[House]:
    with django_db_blocker.unblock(), transaction.atomic():
        yield build(clock.now())
        transaction.set_rollback(True)


@pytest.fixture
def house(built: House, db: None) -> Iterator[House]:
    """Where it was built long ago, everybody has given the password once more, for this test."""
    before = dict(built.sessions)
    if time.monotonic() - built.built > FRESH:
        confirm(built)
    yield built
    built.sessions = before


@pytest.mark.django_db
@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=pytest.mark.xdist_group(HALVES[group])) for group in GROUPS]
)
def test_everybody_gets_the_answer_that_was_reviewed(house: House, group: str) -> None:
    known = {name_of(line): line for line in reviewed()}
    other = []
    for line in lines(house, [route for route in routes() if route.group == group]):
        expected = known.get(name_of(line), {})
        other += [
            f"{name_of(line)} as {caller}: {line[caller]}, reviewed: {expected.get(caller)}"
            for caller in CALLERS
            if line[caller] != expected.get(caller)
        ]
    assert other == []


@pytest.mark.django_db
@pytest.mark.xdist_group("access-pages")
@pytest.mark.parametrize("caller", ["viewer", "operator"])
def test_no_page_offers_what_would_be_refused(house: House, caller: str) -> None:
    """Every link and every form of every page that this caller opens leads somewhere else than to a 403."""
    pages = [line for line in reviewed() if line["method"] == "GET" and line[caller] == "200"]
    offered = set()
    for line in pages:
        if line["route"].startswith(("/v1/", "/admin/", "/livez", "/readyz", "/metrics")):
            continue
        _, text = ask(house, Route(line["route"], "", ("GET",)), "GET", caller, {})
        found = _OFFERED.findall(text.partition("<main")[2])
        offered |= {("POST" if name == "action" else "GET", path) for name, path in found}
    assert len(offered) > 30
    refused = []
    for method, path in sorted(offered):
        route = Route(path.replace("&amp;", "&"), "", (method,))
        answer, _ = ask(house, route, method, caller, {})
        refused += [f"{method} {path}"] * (answer.status_code == 403)
    assert refused == []


def test_every_route_is_in_the_file_and_nothing_else() -> None:
    there = [f"{method} {route.template}" for route in routes() for method in route.methods]
    assert [name_of(line) for line in reviewed()] == there
    assert {route.group for route in routes()} == set(GROUPS)
    assert sum(line[caller] != "-" for line in reviewed() for caller in CALLERS) >= 1000


def test_no_answer_is_a_mistake_of_ours() -> None:
    strange = [line for line in reviewed() if any(line[c][:1] == "5" or " W" in line[c] for c in CALLERS)]
    assert strange == []


def test_a_secret_is_in_no_answer_but_the_reveal() -> None:
    shown = {
        (name_of(line), caller)
        for line in reviewed()
        for caller in CALLERS
        if "ecret" in line[caller].lower()
    }
    reveal = "POST /keys/{service}/{environment}/reveal/"
    assert shown == {(reveal, "lead"), (reveal, "admin")}


@pytest.mark.parametrize("caller", ["viewer", "auditor", "superuser", "stranger"])
def test_who_only_looks_changes_nothing(caller: str) -> None:
    """A stranger, who is a lead elsewhere, sees forms of their own team, but changes nothing of this one."""
    done = [
        name_of(line)
        for line in reviewed()
        if line["method"] in UNSAFE
        and line[caller] in DONE
        and not line["route"].startswith((*ONES_OWN, *SHOWN))
        and line[caller] != line["nobody"]
    ]
    assert [name for name in done if name not in LOOKING] == []


# POSTs that only lead elsewhere, draw a plan, or hand out what the caller may read.
LOOKING = (
    "POST /audit/export/",
    "POST /emergency/",
    "POST /rotations/{rotation_id}/emergency/",
)


def test_what_can_be_done_at_all_is_done_by_somebody() -> None:
    """Else the line does not show who may do it: ``tests/access/bodies.py`` sends too little."""
    undone = [
        name_of(line)
        for line in reviewed()
        if line["method"] in UNSAFE
        and line["route"] not in NOT_HERE
        and not line["route"].startswith(("/accounts/", "/admin/"))
        and not any(line[caller] in DONE for caller in CALLERS)
        and any(line[caller] not in ("405", "login", "-") for caller in CALLERS)
    ]
    assert undone == []


def test_a_strangers_thing_looks_as_if_it_were_not_there() -> None:
    different = [
        name_of(line)
        for line in reviewed()
        if "{" in line["route"]
        and not line["route"].startswith(EVERYBODYS)
        and line["stranger"] != line["absent"]
    ]
    assert different == []


def test_signed_out_means_the_entrance_everywhere() -> None:
    public = {
        line["route"]
        for line in reviewed()
        if line["nobody"] not in ("login", "entrance", "401 missing_api_key")
    }
    assert {route for route in public if not route.startswith("/accounts/")} == {
        "/livez",
        "/metrics",
        "/readyz",
        "/setup/{token}/",
        "/join/{token}/",
        "/v1/docs/",
        "/v1/schema/",
        "/v1/token-scanning/report/",  # where no scanner is known, it is not there
    }
    # A credential of another kind, or one that is over, is no better than none.
    for line in reviewed():
        if not line["route"].startswith("/v1/"):
            assert {line[c] for c in ("other", "revoked", "consumer", "consumer2", "access")} == {
                line["nobody"]
            }


def test_a_refusal_comes_before_the_question_for_the_password() -> None:
    for line in reviewed():
        if line["stale"] == "password" and not line["route"].startswith(ONES_OWN):
            assert line["viewer"] in ("403", "404", "200"), name_of(line)
            assert line["lead"] != "password", name_of(line)
