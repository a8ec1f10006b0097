"""Every screen, as every kind of visitor: no report of the content policy, no error, axe clean, nothing wider
than the screen, and a secret nowhere.

The screens are the routes; what each visitor must find there stands in ``tests/access/answers.csv``. A page
that is new is walked as soon as it stands there, and one that the walk cannot open fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

from keyvault import clock
from tests.access.house import House, build
from tests.access.reviewed import reviewed
from tests.access.routes import routes
from tests.api.conftest import Server, _pointed_at
from tests.browser.conftest import Visit, Visitor
from tests.browser.furniture import Scene
from tests.browser.looking import LOOKS, judged, look
from tests.scale import LONG, scaled

# Files and figures for programs: there is nothing on a screen.
NO_SCREENS = (
    "/rotations/{rotation_id}/evidence/",
    "/livez",
    "/readyz",
    "/metrics",
    "/admin/jsi18n/",
)
# Seconds after which a visitor on a long walk confirms again who they are; it is good for five minutes.
FRESH = 150.0
SEEN = {"200": 200, "403": 403, "404": 404}
# Django's admin has a look of its own; what it must keep is the content policy.
UNJUDGED = "/admin/"


@pytest.fixture(scope="module")
def rooms(site: Server, scenes: dict[str, Scene], django_db_blocker: DjangoDbBlocker) -> Iterator[House]:
    """One of everything, beside the furniture, and everybody who may look at it."""
    with django_db_blocker.unblock(), _pointed_at(site.database, site.keyring):
        yield build(clock.now())


def screens(caller: str, *told: str) -> list[tuple[str, int]]:
    """The pages where this caller gets one of these answers, and its status."""
    return [
        (line["route"], SEEN[line[caller]])
        for line in reviewed()
        if line["method"] == "GET"
        and line[caller] in told
        and not line["route"].startswith("/v1/")
        and line["route"] not in NO_SCREENS
    ]


def confirm(visitor: Visitor) -> None:
    visitor.open("/accounts/reauthenticate/")
    visitor.confirm_password()
    visitor.page.wait_for_url(visitor.origin + "/")


def walk(
    visitor: Visitor,
    house: House,
    places: list[tuple[str, int]],
    looks: int = len(LOOKS),
    *,
    signed_in: bool = True,
) -> None:
    """Open every place, and look at it light and wide, then dark and narrow."""
    wrong = []
    visitor.expected = {403, 404}
    begun = time.monotonic()
    for template, status in places:
        if signed_in and time.monotonic() - begun > FRESH:
            confirm(visitor)
            begun = time.monotonic()
        path = house.path(template)
        answer = visitor.open(path)
        if answer.status != status:
            wrong.append(f"{path}: {answer.status}, reviewed: {status}")
        text = visitor.page.content()
        wrong += [f"{path} shows {name}" for name, secret in house.secrets.items() if secret in text]
        if template.startswith(UNJUDGED):
            continue
        for scheme, width in LOOKS[:looks]:
            look(visitor.page, scheme, width)
            wrong += [f"{path} ({scheme}, {width} px): {found}" for found in judged(visitor.page)]
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def settled(visit: Visit) -> Visit:
    """A visitor who has confirmed who they are, so that no page asks for it."""

    def make(username: str) -> Visitor:
        visitor = visit(username)
        confirm(visitor)
        return visitor

    return make


def test_every_screen_of_a_lead_is_clean(rooms: House, settled: Visit) -> None:
    walk(settled("lead"), rooms, screens("lead", "200"))


def test_every_screen_of_an_administrator_that_leads_do_not_have_is_clean(
    rooms: House, settled: Visit
) -> None:
    leads = screens("lead", "200")
    walk(settled("admin"), rooms, [one for one in screens("admin", "200") if one not in leads])


@pytest.mark.parametrize("caller", ["viewer", "stranger"] if LONG else ["viewer"])
def test_who_may_less_finds_what_was_reviewed(rooms: House, settled: Visit, caller: str) -> None:
    # They see what a lead sees, or less of it.
    walk(settled(caller), rooms, screens(caller, "200", "403", "404"), looks=scaled("LOOKS", 1, len(LOOKS)))


def test_the_signed_out_find_the_entrance_and_nothing_behind_it(rooms: House, visit: Visit) -> None:
    visitor = visit()
    visitor.expected = {404}
    for line in reviewed():
        if line["method"] == "GET" and line["nobody"] in ("login", "entrance"):
            answer = visitor.page.request.get(visitor.origin + rooms.path(line["route"]))
            assert answer.url.startswith(f"{visitor.origin}/accounts/login/"), line["route"]
    walk(visitor, rooms, screens("nobody", "200", "404"), signed_in=False)


def test_no_page_is_left_out(rooms: House) -> None:
    """Every page that answers GET with a page is on somebody's walk."""
    walked = {route for caller in ("lead", "admin", "nobody") for route, _ in screens(caller, *SEEN)}
    for route in routes():
        lines = [line for line in reviewed() if line["route"] == route.template and line["method"] == "GET"]
        shown = any(cell == "200" for line in lines for cell in line.values())
        assert route.is_api or not shown or route.template in walked or route.template in NO_SCREENS


def test_no_secret_was_written_to_the_log(rooms: House, site: Server) -> None:
    written = site.log.read_text(encoding="utf-8", errors="replace")
    assert [name for name, secret in rooms.secrets.items() if secret in written] == []
